"""A specialist works on the message; one function, added to the graph once per specialist under its name."""

from __future__ import annotations

from typing import Any, Protocol

from langgraph.runtime import Runtime

from agents.models.port import Degradation
from agents.task import AgentResult, AgentTask, Customer, Proposal, ToolUse
from agents.tools.base import Effect
from graphs.context import RunContext
from graphs.handoff import knowledge
from graphs.state import Draft, Finding, Outcome, ProposalState, SupervisorState, Visit, add_usage, degraded_by, escalate


class Node(Protocol):
    """A node of the supervisor graph."""

    async def __call__(self, state: SupervisorState, *, runtime: Runtime[RunContext]) -> SupervisorState:
        """The update that the node makes to the state."""
        ...


def delegate_to(name: str) -> Node:
    """The node of the specialist `name`."""

    async def delegate(state: SupervisorState, runtime: Runtime[RunContext]) -> SupervisorState:
        context = runtime.context
        task = task_for(name, state, context)
        result = await context.runner.run(task)
        if result.failure is None:
            context.understudy.learn(task, result)
            return _took_part(name, state, result, context.scope.run_id)
        instead = await context.understudy.step_in(task, result, sure_at=context.configuration.answer_at)
        return _failed(name, state, result, instead)

    return delegate


def task_for(name: str, state: SupervisorState, context: RunContext) -> AgentTask:
    """What the state asks of the specialist `name`."""
    customer, draft, spec = state.get("customer", {}), state.get("draft"), context.specialists[name]
    irreversible = {tool.name for tool in spec.tools if tool.effect is Effect.IRREVERSIBLE}
    return AgentTask(
        spec=spec,
        history=tuple(state["messages"]),
        customer=Customer(customer.get("id"), customer.get("tier", "standard"), customer.get("locale")),
        language=state["language"],
        deadline=context.scope.deadline,
        standing=context.scope.standing(),
        is_streamed=context.scope.is_streamed,
        run_id=context.scope.run_id,
        draft=draft["text"] if draft else None,
        critique=state.get("critique") if draft else None,  # another's critique means nothing to this specialist
        decided=tuple(ToolUse(**finding) for finding in state["findings"] if finding["tool"] in irreversible),
    )


def _failed(name: str, state: SupervisorState, result: AgentResult, instead: AgentResult | None) -> SupervisorState:
    """The half of an answer that somebody may have read is not kept; what comes `instead` is a message of its own."""
    assert result.failure is not None
    update = _found(state, result)
    degraded = degraded_by(update["degraded"], [Degradation(what=f"specialist:{name}", why=result.failure)])
    visit = _visit(name, {**state, "findings": update["findings"]}, "failed", result.failure)
    update = {**update, "visits": [*state["visits"], visit], "degraded": degraded}
    if instead is None:
        # A specialist out of reach is a matter for a human (design D10).
        return {**update, **escalate("specialist_unreachable", f"{name} could not answer ({result.failure}).")}
    return {**update, "draft": draft_of(name, instead), "degraded": degraded_by(degraded, instead.degraded)}


def _took_part(name: str, state: SupervisorState, result: AgentResult, run_id: str) -> SupervisorState:
    update = _found(state, result)
    seen: SupervisorState = {**state, "findings": update["findings"]}
    update["messages"] = list(result.trail)  # type: ignore[arg-type]  # BaseMessage: what the runner makes are AI and tool messages
    if result.hand_back is not None:
        visit = _visit(name, seen, "handed_back", result.hand_back.reason, result.hand_back.suggestion)
    elif result.human is not None:
        visit = _visit(name, seen, "asked_for_human", result.human.summary)
        if result.human.action is not None:
            update["proposal"] = _proposal(result.human.action, run_id)
        else:
            update = {**update, **escalate(result.human.reason, result.human.summary)}
    else:
        visit = _visit(name, seen, "answered", f"confidence {result.confidence:.2f}")
        update["draft"] = draft_of(name, result)
    return {**update, "visits": [*state["visits"], visit]}


def _found(state: SupervisorState, result: AgentResult) -> SupervisorState:
    """What every try leaves behind, whatever came of it."""
    return {
        "findings": [*state["findings"], *(finding_of(use) for use in result.tool_uses)],
        "usage": add_usage(state["usage"], result.usage),
        "degraded": degraded_by(state["degraded"], result.degraded),
        "draft": None,
        "proposal": None,
    }


def _visit(name: str, state: SupervisorState, outcome: Outcome, why: str, suggestion: str | None = None) -> Visit:
    return Visit(specialist=name, outcome=outcome, why=why, suggestion=suggestion, knew=knowledge(state))


def finding_of(use: ToolUse) -> Finding:
    """The call as the state keeps it."""
    result: dict[str, Any] | None = use.result
    return Finding(tool=use.tool, arguments=use.arguments, result=result, error=use.error)


def _proposal(proposal: Proposal, run_id: str) -> ProposalState:
    return ProposalState(
        run_id=run_id, message=proposal.message.model_dump(mode="json"), results=[m.model_dump(mode="json") for m in proposal.results]
    )


def draft_of(name: str, result: AgentResult) -> Draft:
    """The answer of `result` as the state keeps it, under the name of who gives it."""
    assert result.answer is not None
    return Draft(
        id=str(result.answer.id), text=result.answer.text, specialist=name, confidence=result.confidence, sources=list(result.sources)
    )
