"""A specialist for words, with tools that keep how they were called, and the runner around it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from pydantic import BaseModel

from agents.models.scripted import calls
from agents.spec import AgentSpec
from agents.task import AgentResult, AgentTask, Customer
from agents.tools.base import Effect, ToolContext, ToolError, tool
from resilience.context import Standing
from resilience.deadline import Deadline
from tests.support.cast import Cast
from tests.support.virtual_time import LoopClock

CONCLUDED = calls(("conclude", {"confidence": 0.9, "sources": ["a"]}), text="Done.")


class Word(BaseModel):
    word: str


class Refused(ToolError):
    code = "refused"


class Toolbox:
    """Tools that keep how they were called."""

    def __init__(self) -> None:
        self.contexts: list[ToolContext] = []
        self.words: list[str] = []
        self.found: list[str] = []
        self.faults: list[Exception] = []
        self.faulty: dict[str, Exception] = {}
        self.pause = 0.0

        @tool(effect=Effect.READ, timeout=2.0)
        async def look_up(args: Word, ctx: ToolContext) -> dict[str, Any]:
            """Look a word up."""
            self.contexts.append(ctx)
            self.words.append(args.word)
            await asyncio.sleep(self.pause / len(self.words))  # the first call ends last
            if args.word in self.faulty:
                raise self.faulty[args.word]
            if self.faults:
                raise self.faults.pop(0)
            self.found.append(args.word)
            return {"meaning": f"{args.word} means {args.word}"}

        @tool(effect=Effect.IRREVERSIBLE, timeout=2.0)
        async def burn(args: Word, ctx: ToolContext) -> dict[str, Any]:
            """Burn a word."""
            raise AssertionError("an irreversible tool ran without a human's yes")

        self.look_up, self.burn = look_up, burn


def task(spec: AgentSpec, **changes: Any) -> AgentTask:
    given: dict[str, Any] = {
        "spec": spec,
        "history": (HumanMessage("What is a cat?"),),
        "customer": Customer("C-1"),
        "language": "en",
        "deadline": Deadline.after(60.0, LoopClock()),
        "standing": Standing("acme"),
        "run_id": "run-1",
    }
    return AgentTask(**{**given, **changes})


class Stage:
    """One run of the specialist and what its model was shown."""

    def __init__(self, spec: AgentSpec, *lines: Any, **chains: Any) -> None:
        self.cast = Cast({"lexicon": lines} if lines else {}, specialists=[spec], **chains)
        self._spec = spec

    async def run(self, **changes: Any) -> AgentResult:
        return await self.cast.runner.run(task(self._spec, **changes))

    def told(self, call: int = -1) -> list[Any]:
        """Results of tools in a prompt, in the order in which the model sees them."""
        return [json.loads(m.text) for m in self.cast.prompts("lexicon")[call] if isinstance(m, ToolMessage)]


def lexicon(tools: Toolbox) -> AgentSpec:
    """The specialist: 10 s and four model calls for one message."""
    return AgentSpec(
        name="lexicon",
        description="Words.",
        prompt="You know words.",
        tools=(tools.look_up, tools.burn),
        categories=("words",),
        out_of_scope=("numbers",),
        escalate_when="a word hurts",
        timeout=10.0,
        max_steps=4,
    )
