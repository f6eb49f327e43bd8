"""Answers that may be given again, and where they are kept.

An answer may be given to somebody else if everything that went into it is either in its key or the same for everybody: the question
alone, of a conversation that holds nothing else, and tools whose `knowledge` has a version. The version is part of the key, so an
article that was edited is not answered from the past.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from langchain_core.messages import HumanMessage

from agents.spec import AgentSpec
from agents.task import AgentResult, AgentTask

LONGEST_QUESTION = 300
"""Characters of a question that is kept; longer ones tell a story that nobody else will tell in the same words."""
_MAY_BE_PERSONAL = re.compile(r"[\d@]")
_AROUND = " \t\n¿?¡!.,;:…\"'“”‘’«»"


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered once.

    Args:
        text: What the customer read.
        confidence: How sure the specialist was, 0 to 1.
        sources: Ids of the articles that it rests on.
    """

    text: str
    confidence: float
    sources: tuple[str, ...]


class AnswerStore(Protocol):
    """Keeps answers for a day. Nothing here raises because a storage is down, and nothing waits for long."""

    async def find(self, tenant: str, key: str) -> KeptAnswer | None:
        """The answer that was kept under `key`; None: there is none, or it could not be read in time."""
        ...

    def keep(self, tenant: str, key: str, answer: KeptAnswer) -> None:
        """Keep `answer` soon, or drop it if too many wait to be kept; returns at once."""
        ...


class NoAnswers:
    """The store of a service without a provider: the offline model gives the same answer again by itself."""

    async def find(self, tenant: str, key: str) -> KeptAnswer | None:
        """Nothing."""
        return None

    def keep(self, tenant: str, key: str, answer: KeptAnswer) -> None:
        """Forget it."""


def normalised(question: str) -> str:
    """Equal for questions that differ only in case, in white space, in composed or decomposed accents, or in punctuation around them."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split()).strip(_AROUND)


def answer_key(task: AgentTask) -> str | None:
    """The key of the answer to this task, 64 hex digits; None: the answer is for this customer only.

    It is, if anything but the question was said or found before, or if the question is over `LONGEST_QUESTION` or holds a digit or an @:
    numbers of orders, cards and telephones, and addresses, always have one.
    """
    question = task.history[-1]
    is_alone = len(task.history) == 1 and isinstance(question, HumanMessage) and not (task.draft or task.critique or task.decided)
    text = normalised(question.text)
    if not is_alone or not text or len(text) > LONGEST_QUESTION or _MAY_BE_PERSONAL.search(text):
        return None
    # What the specialist is told of the customer (`agents.runner`) is part of the question.
    told = [_version(task.spec), task.language, task.customer.tier, task.customer.id is not None]
    return hashlib.sha256(json.dumps([told, text]).encode()).hexdigest()


def is_common(spec: AgentSpec, result: AgentResult) -> bool:
    """Whether all that was looked up, if anything was, is the same for everybody."""
    common = {tool.name for tool in spec.tools if tool.knowledge is not None}
    return all(use.tool in common for use in result.tool_uses)


def may_be_kept(spec: AgentSpec, result: AgentResult) -> bool:
    """Whether an answer rests on something that was found, and on nothing but what is the same for everybody."""
    found = bool(result.tool_uses) and all(use.error is None and any((use.result or {}).values()) for use in result.tool_uses)
    return result.answer is not None and found and is_common(spec, result)


def _version(spec: AgentSpec) -> list[object]:
    """Changes with whatever shapes the specialist's answers."""
    return [_written(spec), [tool.knowledge() if tool.knowledge else None for tool in spec.tools]]


@cache
def _written(spec: AgentSpec) -> str:
    """What the spec says, in short; specs do not change while a process runs."""
    tools = [[tool.name, tool.description] for tool in spec.tools]
    parts = [spec.name, spec.prompt, spec.categories, spec.out_of_scope, spec.escalate_when, tools]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
