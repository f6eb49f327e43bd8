"""A human takes over: with everything that was asked, tried and found, and why it stopped."""

from __future__ import annotations

from langgraph.runtime import Runtime

from graphs.context import RunContext
from graphs.handoff import question
from graphs.state import Escalation, SupervisorState

CONVERSATION_MESSAGES = 20
"""How many messages of the conversation the human is shown."""


async def escalate(state: SupervisorState, runtime: Runtime[RunContext]) -> SupervisorState:
    """Complete the escalation that an earlier node asked for; a draft that the policy held back is the reason by default."""
    asked, draft = question(state), state.get("draft")
    wanted = state.get("escalation") or Escalation(
        reason="low_confidence", summary=f"{draft['specialist'] if draft else 'Nobody'} is not sure enough of an answer.", context={}
    )
    context = {
        "question": asked.text if asked else None,
        "conversation": [{"from": message.type, "text": message.text} for message in state["messages"] if message.text][
            -CONVERSATION_MESSAGES:
        ],
        "customer": {"tier": "standard", **state.get("customer", {})},
        "language": state.get("language"),
        "decision": state.get("decision"),
        "tried": [{key: visit[key] for key in ("specialist", "outcome", "why")} for visit in state.get("visits", [])],
        "found": [dict(finding) for finding in state.get("findings", [])],
        "draft": draft,
        "why": wanted["summary"],
    }
    with runtime.context.tracer.span("chain", "escalate", input=wanted["reason"]):
        return {"escalation": Escalation(reason=wanted["reason"], summary=wanted["summary"], context=context)}
