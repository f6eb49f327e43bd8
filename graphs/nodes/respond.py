"""The last word of a turn: the specialist's answer, or that a human takes over."""

from __future__ import annotations

from uuid import NAMESPACE_OID, uuid5

from langchain_core.messages import AIMessage
from langgraph.runtime import Runtime

from graphs.context import RunContext
from graphs.state import SUPERVISOR, SupervisorState

_UNREACHABLE = frozenset({"specialist_unreachable", "model_unavailable", "routing_invalid", "no_question"})
_FAREWELLS = {
    ("es", "asked"): "Te paso con una persona de nuestro equipo. Ya tiene toda la conversación, así que no hace falta que la repitas.",
    (
        "es",
        "unreachable",
    ): "Ahora mismo no puedo responderte de forma fiable, así que te paso con una persona de nuestro equipo, que ya tiene "
    "toda la conversación.",
    ("es", "unsure"): "No tengo una respuesta segura para esto, así que te paso con una persona de nuestro equipo, que ya tiene toda la "
    "conversación.",
    ("en", "asked"): "I am handing you over to a person on our team. They already have the whole conversation, so you need not repeat it.",
    (
        "en",
        "unreachable",
    ): "I cannot give you a reliable answer right now, so I am handing you over to a person on our team, who already has "
    "the whole conversation.",
    (
        "en",
        "unsure",
    ): "I do not have a reliable answer to this, so I am handing you over to a person on our team, who already has the whole conversation.",
}
_ASKED = frozenset(
    {"cancellation_requested", "refund_requested", "vip_asked_for_human", "vip_is_angry", "human_chosen", "specialist_asked"}
)


async def respond(state: SupervisorState, runtime: Runtime[RunContext]) -> SupervisorState:
    """Put the answer into the conversation, under the id of its tokens."""
    escalation, draft = state.get("escalation"), state.get("draft")
    if escalation is not None:
        text = _FAREWELLS[state.get("language", "en"), _manner(escalation["reason"])]
        # Made from the run, so that a step that is run again writes the same message and not a second one.
        message = AIMessage(text, id=str(uuid5(NAMESPACE_OID, f"{runtime.context.scope.run_id}:respond")), name=SUPERVISOR)
        return {
            "messages": [message],
            "answer": text,
            "specialist": None,
            "confidence": draft["confidence"] if draft else None,
            "sources": [],
        }
    assert draft is not None
    message = AIMessage(draft["text"], id=draft["id"], name=draft["specialist"])
    return {
        "messages": [message],
        "answer": draft["text"],
        "specialist": draft["specialist"] if draft["specialist"] != SUPERVISOR else None,
        "confidence": draft["confidence"],
        "sources": draft["sources"],
    }


def _manner(reason: str) -> str:
    if reason in _ASKED:
        return "asked"
    return "unreachable" if reason in _UNREACHABLE else "unsure"
