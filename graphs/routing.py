"""Where the conversation goes: pure functions, state in, node name out; and the limits that end a loop.

The confidence policy and its thresholds: design D10, ADR-0013.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from graphs.state import SupervisorState

ANSWER_AT = 0.7
"""From here on a draft is an answer."""
ESCALATE_BELOW = 0.3
"""Below this a human takes over at once, and so it is with a routing decision."""
ANSWER_AFTER_REFLECTION_AT = 0.5
"""What a second look must reach: it will not be looked at again."""
MAX_HOPS = 6
"""Most decisions of the supervisor in one turn."""
MAX_REPEATS = 3
"""Most visits of one specialist with the same question, findings and critique."""
MAX_STILL_HOPS = 4
"""Most hops in a row that find out nothing new."""
RECURSION_LIMIT = 4 * MAX_HOPS + 6
"""Supersteps of one turn, as a last resort: a hop is supervise, specialist, reflect, specialist."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The confidence policy of a run: from `answer_at` on a draft is an answer, below `escalate_below` a human takes over."""

    answer_at: float = ANSWER_AT
    escalate_below: float = ESCALATE_BELOW

    @property
    def answer_after_reflection_at(self) -> float:
        """What a second look must reach: the usual, but never more than a first look nor less than what a human must have."""
        return min(self.answer_at, max(self.escalate_below, ANSWER_AFTER_REFLECTION_AT))


USUAL = Thresholds()


def loop_fault(state: SupervisorState) -> str | None:
    """Why this turn must end now: `repeated_call`, `no_progress`, `hop_limit`; None: it may go on."""
    visits = state.get("visits", [])
    repeats = Counter((visit["specialist"], visit["knew"]) for visit in visits)
    if repeats and max(repeats.values()) >= MAX_REPEATS:
        return "repeated_call"
    latest = visits[-MAX_STILL_HOPS:]
    if len(latest) == MAX_STILL_HOPS and len({visit["knew"] for visit in latest}) == 1:
        return "no_progress"
    if state.get("hops", 0) >= MAX_HOPS:
        return "hop_limit"
    return None


def after_supervise(state: SupervisorState) -> str:
    """The chosen specialist, `respond` if none can be chosen and somebody else has answered, or `escalate`."""
    if state.get("draft"):
        return "respond"
    decision = state.get("decision")
    if state.get("escalation") or decision is None:
        return "escalate"
    return decision["specialist"]


def after_specialist(state: SupervisorState, thresholds: Thresholds = USUAL) -> str:
    """`approve` if an action waits; by the policy on the draft `respond`, `reflect` or `escalate`; without a draft `supervise`."""
    if state.get("escalation"):
        return "escalate"
    if state.get("proposal"):
        return "approve"
    draft = state.get("draft")
    if draft is None:
        return "supervise"
    confidence = draft["confidence"]
    if confidence >= thresholds.answer_at:
        return "respond"
    if state.get("critique") is not None:
        return "respond" if confidence >= thresholds.answer_after_reflection_at else "escalate"
    return "escalate" if confidence < thresholds.escalate_below else "reflect"


def after_approve(state: SupervisorState) -> str:
    """`approve` while another action waits, then back to the specialist who proposed it."""
    decision = state.get("decision")
    assert decision is not None
    return "approve" if state.get("proposal") else decision["specialist"]


def after_reflect(state: SupervisorState, thresholds: Thresholds = USUAL) -> str:
    """Back to the specialist whose draft it was; without a critique the draft is judged as it stands."""
    draft = state.get("draft")
    if draft is None:
        return "escalate"
    if state.get("critique"):
        return draft["specialist"]
    return "respond" if draft["confidence"] >= thresholds.answer_after_reflection_at else "escalate"
