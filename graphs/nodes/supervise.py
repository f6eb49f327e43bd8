"""Who should act? Rules first, then the routing model; only this node routes."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.runtime import Runtime
from pydantic import BaseModel, Field

from agents.errors import OutputInvalid
from agents.history import recent
from agents.language import detect_language
from agents.models.offline import OFFLINE
from agents.models.port import Account, Degradation, ModelRequest
from agents.models.structured import complete_as
from agents.spec import load_prompt
from agents.task import AgentResult
from graphs.context import RunContext
from graphs.escalation_rules import escalation_reason, order_reference
from graphs.handoff import describe, question
from graphs.nodes.delegate import draft_of, task_for
from graphs.routing import loop_fault
from graphs.state import SUPERVISOR, Decision, Degraded, SupervisorState, add_usage, degraded_by, escalate, new_turn
from resilience.errors import DependencyError, ResilienceError

HUMAN = "human"
REFUND_DESK = "billing_support"


class RoutingDecision(BaseModel):
    """What the routing model must answer."""

    specialist: str
    confidence: float = Field(ge=0.0, le=1.0)
    reason: str = Field(min_length=1)
    alternatives: list[str] = Field(default_factory=list)

    @classmethod
    def schema_for(cls, offered: list[str]) -> dict[str, Any]:
        """JSON Schema of a decision among `offered`, in the form that strict structured output wants."""
        choice = {"type": "string", "enum": offered}
        properties = {
            "specialist": choice,
            "confidence": {"type": "number"},
            "reason": {"type": "string"},
            "alternatives": {"type": "array", "items": choice},
        }
        return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


async def supervise(state: SupervisorState, runtime: Runtime[RunContext]) -> SupervisorState:
    """Begin the turn if it is new, then decide who acts next, or that a human must."""
    asked = question(state)
    if asked is None:
        language = detect_language("", state.get("customer", {}).get("locale") or runtime.context.configuration.locale)
        return {**new_turn("", language), **escalate("no_question", "The run was started without a message of the customer.")}
    update = _begin(state, asked, runtime.context.configuration.locale)
    state = {**state, **update}
    hops = state["hops"] + 1
    update = {**update, "hops": hops}
    fault = loop_fault(state)
    if fault is not None:
        return {**update, **escalate(fault, "The specialists could not settle who answers this.")}
    with runtime.context.tracer.span("chain", "supervise", input=asked.text) as span:
        update = {**update, **await _decide(state, asked, runtime.context)}
        escalation = update.get("escalation")
        span.update(output={"decision": update.get("decision"), "escalation": escalation["reason"] if escalation else None})
    return update


def _begin(state: SupervisorState, asked: HumanMessage, locale: str | None) -> SupervisorState:
    """The reset of a new turn; nothing when the supervisor is asked again within one.

    A message that comes twice under one id begins a new turn if the first one has been answered.
    """
    if state.get("turn") == asked.id and state.get("answer") is None:
        return {}
    # A message too short to tell is taken for the language of the customer, else of the conversation, else of the assistant.
    usual = state.get("customer", {}).get("locale") or state.get("language") or locale
    return new_turn(asked.id or "", detect_language(asked.text, usual))


async def _decide(state: SupervisorState, asked: HumanMessage, context: RunContext) -> SupervisorState:
    if state["hops"] == 0:
        by_rule = _by_rule(state, asked, context)
        if by_rule is not None:
            return by_rule
    offered, closed = _offered(state, context)
    degraded: list[Degraded] = [*state["degraded"]]
    degraded += [d for name in closed if (d := Degraded(what=f"specialist:{name}", why="circuit_open")) not in degraded]
    if not offered:
        return await _without_specialists(state, degraded, context)
    visits = state["visits"]
    if visits and visits[-1]["suggestion"] in offered:
        suggested = str(visits[-1]["suggestion"])
        reason = f"{visits[-1]['specialist']} handed back: {visits[-1]['why']}"
        return {"decision": Decision(specialist=suggested, confidence=1.0, reason=reason, alternatives=[]), "degraded": degraded}
    return {"degraded": degraded, **await _by_model(state, offered, degraded, context)}


async def _without_specialists(state: SupervisorState, degraded: list[Degraded], context: RunContext) -> SupervisorState:
    """What any of them once answered or would have quoted, else a human."""
    for name in context.offered:
        task, failed = task_for(name, state, context), AgentResult(failure="circuit_open")
        instead = await context.understudy.step_in(task, failed, sure_at=context.configuration.answer_at)
        if instead is not None:
            return {"draft": draft_of(SUPERVISOR, instead), "degraded": degraded_by(degraded, instead.degraded)}
    return {**escalate("specialist_unreachable", "No specialist is available."), "degraded": degraded}


def _by_rule(state: SupervisorState, asked: HumanMessage, context: RunContext) -> SupervisorState | None:
    reason = escalation_reason(asked.text, is_vip=state.get("customer", {}).get("tier") == "vip")
    if reason is None:
        return None
    said = "\n".join(message.text for message in state["messages"] if isinstance(message, HumanMessage))
    desk_is_open = REFUND_DESK in context.offered and context.is_available(REFUND_DESK)
    if reason == "refund_requested" and order_reference(said) and desk_is_open:
        # A refund of a known order is prepared by billing_support, and a human says yes or no to that (design D10).
        return {"decision": Decision(specialist=REFUND_DESK, confidence=1.0, reason=reason, alternatives=[])}
    return escalate(reason, "A rule hands this to a human.")


def _offered(state: SupervisorState, context: RunContext) -> tuple[list[str], list[str]]:
    """The specialists to choose from, and those whose breaker is open.

    One that handed the question back is left out as long as there is another.
    """
    names = context.offered
    closed = [name for name in names if not context.is_available(name)]
    available = [name for name in names if name not in closed]
    handed_back = {visit["specialist"] for visit in state["visits"] if visit["outcome"] == "handed_back"}
    return [name for name in available if name not in handed_back] or available, closed


async def _by_model(state: SupervisorState, offered: list[str], degraded: list[Degraded], context: RunContext) -> SupervisorState:
    choices = [*offered, HUMAN]
    prompt: list[BaseMessage] = [SystemMessage(_instructions(state, offered, context)), *recent(state["messages"])]
    request = ModelRequest(
        "routing",
        tuple(prompt),
        response_schema=RoutingDecision.schema_for(choices),
        schema_name="routing",
        standing=context.scope.standing(is_under_way=bool(state["visits"])),
    )

    def fault_of(answer: RoutingDecision) -> str:
        return "" if answer.specialist in choices else f"specialist {answer.specialist!r} is none of {', '.join(choices)}"

    account = Account()
    try:
        answer, model = await complete_as(
            RoutingDecision, context.gateway, request, context.scope.deadline, account=account, fault_of=fault_of
        )
    except (ResilienceError, DependencyError) as exc:
        account.degraded.append(Degradation(what="routing", why=exc.code))
        if isinstance(exc, OutputInvalid):
            update = escalate("routing_invalid", f"The routing model gave no usable decision: {exc.detail}.")
        else:
            update = escalate("model_unavailable", "The model that routes is out of reach.")
    else:
        if model == OFFLINE and account.degraded:
            account.degraded.append(Degradation(what="routing_by_rules", why=account.degraded[-1].why))
        update = _judge(_decision(answer, choices), context.configuration.escalate_below)
    return {**update, "usage": add_usage(state["usage"], account.usage), "degraded": degraded_by(degraded, account.degraded)}


def _decision(answer: RoutingDecision, choices: list[str]) -> Decision:
    alternatives = [name for name in answer.alternatives if name in choices and name != answer.specialist]
    return Decision(specialist=answer.specialist, confidence=answer.confidence, reason=answer.reason, alternatives=alternatives)


def _judge(decision: Decision, escalate_below: float) -> SupervisorState:
    if decision["specialist"] == HUMAN:
        return {**escalate("human_chosen", decision["reason"]), "decision": decision}
    if decision["confidence"] < escalate_below:
        return {**escalate("low_routing_confidence", decision["reason"]), "decision": decision}
    return {"decision": decision}


def _instructions(state: SupervisorState, offered: list[str], context: RunContext) -> str:
    parts = [load_prompt("supervise"), "Specialists:"]
    for name in offered:
        spec = context.specialists[name]
        parts.append(f"- {name}: {spec.description} Not: {', '.join(spec.out_of_scope) or 'nothing'}.")
    customer = state.get("customer", {})
    parts.append(f"Customer: tier {customer.get('tier', 'standard')}.")
    if state["visits"]:
        parts.append(f"Tried so far:\n{describe(state['visits'])}")
    return "\n".join(parts)
