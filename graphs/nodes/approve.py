"""A human says yes or no to an action that cannot be taken back, and only then is it taken (ADR-0015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool, ValidationError

from agents.runner import tool_message
from agents.spec import AgentSpec
from agents.task import AgentTask, ToolUse
from agents.tools.base import ToolArgumentsInvalid
from graphs.context import RunContext
from graphs.handoff import question
from graphs.nodes.delegate import finding_of, task_for
from graphs.state import SupervisorState

REFUSED = "refused_by_human"
"""Error code of a call that a human refused."""
_NOTICES = {
    "es": "He preparado tu solicitud y una persona de nuestro equipo tiene que aprobarla.",
    "en": "I have prepared your request, and a person on our team has to approve it.",
}


class Approval(BaseModel):
    """A human's answer; `true` and `false` alone are short for one without the rest."""

    model_config = ConfigDict(extra="forbid")

    approved: StrictBool
    comment: str = Field("", max_length=2_000, description="For the specialist, who may tell it to the customer.")
    arguments: dict[str, JsonValue] | None = Field(None, description="All arguments, to be used instead of the proposed ones.")


async def approve(state: SupervisorState, runtime: Runtime[RunContext]) -> SupervisorState:
    """Ask about the first call that waits, make it or not, and keep what came of it; nothing is done before a usable answer."""
    proposal, decision = state.get("proposal"), state.get("decision")
    assert proposal is not None
    assert decision is not None
    message = AIMessage.model_validate(proposal["message"])
    settled = {result["tool_call_id"] for result in proposal["results"]}
    call, *others = (call for call in message.tool_calls if str(call["id"]) not in settled)
    # Whichever run resumes it, the effect is that of the run which proposed it.
    task = replace(task_for(decision["specialist"], state, runtime.context), run_id=proposal["run_id"])
    approval = _ask(_asked(state, call, others), task.spec, call)

    with runtime.context.tracer.span("chain", "approve", input={"tool": call["name"], "approved": approval.approved}) as span:
        use = await _settle(task, call, approval, runtime.context)
        span.update(output=use.result)
    results = [*proposal["results"], tool_message(str(message.id), call, use).model_dump(mode="json")]
    update: SupervisorState = {"findings": [*state["findings"], finding_of(use)], "proposal": {**proposal, "results": results}}
    if not others:
        # Providers refuse a tool call that no result follows, so the message goes in when all of its results are there.
        told = {result["tool_call_id"]: ToolMessage.model_validate(result) for result in results}
        update["messages"] = [message, *(told[str(made["id"])] for made in message.tool_calls)]
        update["proposal"] = None
    return update


def _asked(state: SupervisorState, call: ToolCall, others: Sequence[ToolCall]) -> dict[str, Any]:
    """Everything that the human needs, and in `notice` what the customer may be told meanwhile; JSON."""
    asked, decision = question(state), state.get("decision")
    return {
        "kind": "approval",
        "tool": call["name"],
        "arguments": call["args"],
        "specialist": decision["specialist"] if decision else None,
        "question": asked.text if asked else None,
        "customer": dict(state.get("customer", {})),
        "language": state["language"],
        "notice": _NOTICES[state["language"]],
        "found": [dict(finding) for finding in state["findings"]],
        "next": [{"tool": other["name"], "arguments": other["args"]} for other in others],
    }


def _ask(asked: dict[str, Any], spec: AgentSpec, call: ToolCall) -> Approval:
    """The human's answer; one that cannot be used is asked for again, with what is wrong."""
    answer, fault = _parse(interrupt(asked), spec, call)
    while answer is None:
        answer, fault = _parse(interrupt({**asked, "error": fault}), spec, call)
    return answer


def _parse(given: Any, spec: AgentSpec, call: ToolCall) -> tuple[Approval | None, str]:
    tool = next((tool for tool in spec.tools if tool.name == call["name"]), None)
    try:
        approval = Approval.model_validate({"approved": given} if isinstance(given, bool) else given)
        if approval.arguments is not None and tool is not None:
            tool.parse(approval.arguments)
    except ValidationError as exc:
        return None, "; ".join(f"{'.'.join(map(str, error['loc'])) or 'answer'}: {error['msg']}" for error in exc.errors())
    except ToolArgumentsInvalid as exc:
        return None, str(exc)
    return approval, ""


async def _settle(task: AgentTask, call: ToolCall, approval: Approval, context: RunContext) -> ToolUse:
    said = {"human": approval.model_dump(exclude_none=True)}
    if not approval.approved:
        told = {"message": "A human refused this, so it was not done. Tell the customer, and do not ask for it again.", **said}
        return ToolUse(call["name"], call["args"], error=REFUSED, result=told)
    use = await context.runner.use_approved(task, call, call["args"] if approval.arguments is None else approval.arguments)
    # Kept under the arguments as they were proposed, by which the specialist's next try at the same is known.
    return replace(use, arguments=call["args"], result={**(use.result or {}), **said})
