"""What the state says of earlier tries, in the forms that the supervisor needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage

from graphs.state import SupervisorState, Visit


def question(state: SupervisorState) -> HumanMessage | None:
    """The customer's latest message; None: there is none."""
    return latest_question(state.get("messages", []))


def latest_question(messages: Sequence[AnyMessage | BaseMessage]) -> HumanMessage | None:
    """The last human message of `messages`."""
    return next((m for m in reversed(messages) if isinstance(m, HumanMessage)), None)


def knowledge(state: SupervisorState) -> str:
    """Equal for two states with the same question, findings and critique; 16 hex digits."""
    findings = sorted({json.dumps([f["tool"], f["arguments"], f["error"]], sort_keys=True) for f in state.get("findings", [])})
    return hashlib.sha256(json.dumps([state.get("turn"), state.get("critique"), findings]).encode()).hexdigest()[:16]


def describe(visits: Sequence[Visit]) -> str:
    """The tries so far, a line each, for the routing prompt."""
    return "\n".join(
        f"- {v['specialist']} {v['outcome'].replace('_', ' ')}: {v['why']}" + (f" (suggests {v['suggestion']})" if v["suggestion"] else "")
        for v in visits
    )
