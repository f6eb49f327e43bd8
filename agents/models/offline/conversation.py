"""A prompt read back as a turn: what was asked, what was said before, what the tools have answered so far."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agents.language import Language, clear_language, detect_language
from agents.models.offline import wishes
from agents.models.offline.words import words

_CRITIQUE = re.compile(r"^Critique of the draft:\s*(.+)$", re.MULTILINE)
_ANSWER_IN = re.compile(r"^Answer in (Spanish|English)\.", re.MULTILINE)
_LONGEST_NUMBER = 6
"""Most words of a message that only tells an order number, the number being two."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one tool call came to: its result, or in `error` the text that the model was shown."""

    tool: str
    result: dict[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the customer and what surrounds it.

    Args:
        question: The customer's last message.
        before: The conversation before it, oldest first, without system messages.
        outcomes: What the tools have answered since.
        language: Language to answer in.
        critique: What was wrong with the draft before, if there was one.
    """

    question: str
    before: tuple[BaseMessage, ...]
    outcomes: tuple[Outcome, ...]
    language: Language
    critique: str | None

    @classmethod
    def read(cls, messages: Sequence[BaseMessage]) -> Turn:
        """The turn that `messages` (a prompt: system message, conversation, question, tool calls and results) asks for."""
        system = "\n".join(m.text for m in messages if isinstance(m, SystemMessage))
        talk = [m for m in messages if not isinstance(m, SystemMessage)]
        last = max((i for i, m in enumerate(talk) if isinstance(m, HumanMessage)), default=-1)
        question = talk[last].text if last >= 0 else ""
        before = tuple(talk[: max(last, 0)])
        critique = _CRITIQUE.search(system)
        return cls(
            question=question,
            before=before,
            outcomes=_outcomes(talk[last + 1 :]),
            language=_language(question, before, system),
            critique=critique.group(1) if critique else None,
        )

    def result(self, tool: str) -> dict[str, Any] | None:
        """What `tool` answered in this turn, if it was called and worked."""
        return next((o.result for o in self.outcomes if o.tool == tool and o.result is not None), None)

    def earlier(self, tool: str) -> dict[str, Any] | None:
        """The last thing `tool` answered in an earlier turn."""
        return next((o.result for o in reversed(_outcomes(self.before)) if o.tool == tool and o.result is not None), None)

    @property
    def refunded_order(self) -> str | None:
        """The order whose money the customer wants back, if both the wish and the number are known.

        The two may come in two messages, in either order.
        """
        named, is_wish = wishes.order_id(self.question), wishes.wants_refund(self.question)
        if is_wish and named is None:
            earlier = (wishes.order_id(m.text) for m in reversed(self.before) if isinstance(m, HumanMessage))
            return next((order for order in earlier if order), None)
        only_the_number = named is not None and len(words(self.question)) <= _LONGEST_NUMBER
        return named if is_wish or (only_the_number and wishes.wants_refund(self.previous_question)) else None

    @property
    def previous_question(self) -> str:
        """The customer's message before this one, or nothing."""
        return next((m.text for m in reversed(self.before) if isinstance(m, HumanMessage)), "")

    @property
    def previous_answer(self) -> AIMessage | None:
        """The last answer that the customer has read."""
        return next((m for m in reversed(self.before) if isinstance(m, AIMessage) and m.text.strip()), None)


def _outcomes(messages: Sequence[BaseMessage]) -> tuple[Outcome, ...]:
    names = {call["id"]: call["name"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls}
    return tuple(_outcome(m, m.name or names.get(m.tool_call_id, "")) for m in messages if isinstance(m, ToolMessage))


def _outcome(message: ToolMessage, tool: str) -> Outcome:
    text = message.text
    try:
        result = json.loads(text)
    except ValueError:
        return Outcome(tool, error=text)
    if message.status == "error" or not isinstance(result, dict) or "error" in result:
        return Outcome(tool, error=text)
    return Outcome(tool, result=result)


def _language(question: str, before: Sequence[BaseMessage], system: str) -> Language:
    """The prompt's instruction wins: whoever wrote it knows the customer's locale, the message alone does not."""
    if said := _ANSWER_IN.search(system):
        return "es" if said.group(1) == "Spanish" else "en"
    earlier = " ".join(m.text for m in before if isinstance(m, HumanMessage))
    return clear_language(question) or detect_language(earlier)
