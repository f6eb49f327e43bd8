"""What a specialist is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from agents.models.port import Degradation
from agents.spec import AgentSpec
from agents.usage import Usage
from resilience.context import Standing
from resilience.deadline import Deadline


@dataclass(frozen=True, slots=True)
class Customer:
    """Who asks.

    Args:
        id: The customer's id in the company's own system; None: nobody is identified.
        tier: `standard` or `vip`.
        locale: BCP 47, for example `es-ES`; None: the message's language decides.
    """

    id: str | None = None
    tier: str = "standard"
    locale: str | None = None


@dataclass(frozen=True, slots=True)
class AgentTask:
    """One message for one specialist.

    Args:
        spec: Who works.
        history: The conversation so far, oldest first: the customer's message last, or after it what has been done for it.
        customer: Who asks.
        language: Language of the answer, `es` or `en`.
        deadline: When the answer is needed.
        standing: Whose work it is, and how urgent.
        run_id: Stable over retries and resumes of the run; keys of effects are made from it.
        is_streamed: Whether somebody may read the tokens as they come.
        draft: The specialist's own answer that was not good enough, if there was one.
        critique: What is wrong with it.
        decided: Irreversible calls that a human has decided on for this message; the same call again gets the same result.
    """

    spec: AgentSpec
    history: tuple[BaseMessage, ...]
    customer: Customer
    language: str
    deadline: Deadline
    standing: Standing
    run_id: str
    is_streamed: bool = True
    draft: str | None = None
    critique: str | None = None
    decided: tuple[ToolUse, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One tool call that was made: `result` if it worked, else `error` (a stable code)."""

    tool: str
    arguments: dict[str, Any]
    result: dict[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HandBack:
    """The question is not this specialist's; only the supervisor routes."""

    reason: str
    suggestion: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A message with irreversible calls, of which none has been made.

    Args:
        message: The specialist's message.
        results: What came of its other calls; a call without a result waits for a human's yes.
    """

    message: AIMessage
    results: tuple[ToolMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class HumanNeeded:
    """The specialist wants a human.

    Args:
        reason: A stable code: `specialist_asked`, `approval_required`.
        summary: Why, in a sentence.
        action: What waits for a human's yes; None: nothing is prepared, the human takes over.
    """

    reason: str
    summary: str
    action: Proposal | None = None


@dataclass(frozen=True, slots=True)
class AgentResult:
    """What came of a task. Exactly one of `answer`, `hand_back`, `human` and `failure` is set.

    Args:
        answer: The answer; its id is the one under which it was streamed.
        failure: Why nothing came of it, as a stable code.
        confidence: How sure the specialist is, 0 to 1.
        sources: Ids of the articles or records that the answer rests on.
        trail: Messages between question and answer: tool calls and their results.
        tool_uses: The same calls as plain data, for escalations and guards.
        usage: What the work cost.
        degraded: What was done in a lesser way.
    """

    answer: AIMessage | None = None
    hand_back: HandBack | None = None
    human: HumanNeeded | None = None
    failure: str | None = None
    confidence: float = 0.0
    sources: tuple[str, ...] = ()
    trail: tuple[BaseMessage, ...] = ()
    tool_uses: tuple[ToolUse, ...] = ()
    usage: Usage = field(default_factory=Usage)
    degraded: tuple[Degradation, ...] = ()
