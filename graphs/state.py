"""What the supervisor remembers: plain JSON values and messages, nothing that does work (ADR-0010)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from agents.models.port import Degradation
from agents.usage import Usage

SUPERVISOR = "supervisor"
"""Who speaks where no specialist does."""
Outcome = Literal["answered", "handed_back", "asked_for_human", "failed"]


class CustomerState(TypedDict, total=False):
    """Who asks; see `agents.task.Customer`."""

    id: str
    tier: Literal["standard", "vip"]
    locale: str


class Decision(TypedDict):
    """Who should act, and why."""

    specialist: str
    confidence: float
    reason: str
    alternatives: list[str]


class Visit(TypedDict):
    """One specialist's try at the message; `knew` is equal for two tries that had the same to go on."""

    specialist: str
    outcome: Outcome
    why: str
    suggestion: str | None
    knew: str


class Finding(TypedDict):
    """One tool call of this turn."""

    tool: str
    arguments: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None


class Draft(TypedDict):
    """An answer that the policy has not let out yet; `id` is the one under which it was streamed, `specialist` may be `SUPERVISOR`."""

    id: str
    text: str
    specialist: str
    confidence: float
    sources: list[str]


class Escalation(TypedDict):
    """Why a human must act, and everything that the human needs."""

    reason: str
    summary: str
    context: dict[str, Any]


class ProposalState(TypedDict):
    """A specialist's message whose irreversible calls wait for a human; see `agents.task.Proposal`."""

    run_id: str  # the run that proposed them: keys of effects are made from it, whichever run makes the call
    message: dict[str, Any]
    results: list[dict[str, Any]]


class Degraded(TypedDict):
    """Something was done in a lesser way."""

    what: str
    why: str


class UsageState(TypedDict):
    """Tokens and US dollars of this turn."""

    input_tokens: int
    output_tokens: int
    cost_usd: float


def known_of(before: CustomerState | None, now: CustomerState | None) -> CustomerState:
    """What is known of the customer: a turn that names only the locale does not forget the tier."""
    return {**(before or {}), **(now or {})}


class SupervisorInput(TypedDict, total=False):
    """What a run is given."""

    messages: Annotated[list[AnyMessage], add_messages]
    customer: Annotated[CustomerState, known_of]


class SupervisorOutput(TypedDict, total=False):
    """What a run gives back."""

    messages: Annotated[list[AnyMessage], add_messages]
    answer: str | None
    specialist: str | None
    confidence: float | None
    sources: list[str]
    escalation: Escalation | None
    degraded: list[Degraded]
    usage: UsageState


class SupervisorState(SupervisorInput, SupervisorOutput, total=False):
    """The whole state. All but `messages` and `customer` belong to one turn and begin anew with the next."""

    messages: Annotated[list[AnyMessage], add_messages]
    turn: str  # id of the customer's message that this turn answers
    language: str  # of the answer: es or en
    hops: int  # times the supervisor has decided in this turn
    decision: Decision | None  # the latest one
    visits: list[Visit]  # who has tried, oldest first
    findings: list[Finding]  # what the tools found
    draft: Draft | None  # waits for the confidence policy
    critique: str | None  # set once a draft has been reflected on
    proposal: ProposalState | None  # waits for a human's yes


def new_turn(turn: str, language: str) -> SupervisorState:
    """The update that begins a turn."""
    return SupervisorState(
        turn=turn,
        language=language,
        hops=0,
        decision=None,
        visits=[],
        findings=[],
        draft=None,
        critique=None,
        proposal=None,
        answer=None,
        specialist=None,
        confidence=None,
        sources=[],
        escalation=None,
        degraded=[],
        usage=UsageState(input_tokens=0, output_tokens=0, cost_usd=0.0),
    )


def escalate(reason: str, summary: str) -> SupervisorState:
    """The update that asks for a human; the node `escalate` adds the context. `reason` is a stable code."""
    return {"escalation": Escalation(reason=reason, summary=summary, context={})}


def add_usage(usage: UsageState, more: Usage) -> UsageState:
    """The sum of both."""
    return UsageState(
        input_tokens=usage["input_tokens"] + more.input_tokens,
        output_tokens=usage["output_tokens"] + more.output_tokens,
        cost_usd=usage["cost_usd"] + more.cost_usd,
    )


def degraded_by(degraded: list[Degraded], more: Sequence[Degradation]) -> list[Degraded]:
    """Both lists as one, each entry once."""
    entries = [Degraded(what=entry.what, why=entry.why) for entry in more]
    return [*degraded, *(entry for entry in entries if entry not in degraded)]
