"""A conversation with the supervisor graph, over a cast of scripted models."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from agents.models.scripted import Line, calls, says
from graphs.configuration import AS_USUAL
from graphs.input import SupervisorRequest
from graphs.routing import RECURSION_LIMIT
from graphs.supervisor import build_supervisor
from tests.support.cast import Cast

BILLING, TECHNICAL, GENERAL = "billing_support", "technical_support", "general_support"


def routes(specialist: str, confidence: float = 0.9) -> str:
    return says({"specialist": specialist, "confidence": confidence, "reason": "it is theirs", "alternatives": []})


def answers(text: str, confidence: float = 0.9, *sources: str) -> Any:
    return calls(("conclude", {"confidence": confidence, "sources": list(sources)}), text=text)


def hands_back(suggestion: str | None = None) -> Any:
    return calls(("hand_back", {"reason": "not mine", "suggestion": suggestion}))


class Conversation:
    """One thread of the supervisor over a cast.

    Attributes:
        seconds: How long every run has.
        configuration: What every run's assistant wants to be otherwise.
    """

    def __init__(self, **lines: list[Line]) -> None:
        self.seconds = 60.0
        self.configuration = AS_USUAL
        self.cast = Cast(lines)
        self._graph = build_supervisor(self.cast.specialists).compile(checkpointer=InMemorySaver())
        self._config: Any = {"configurable": {"thread_id": "t"}, "recursion_limit": RECURSION_LIMIT}
        self._runs = self._threads = 0

    def new_thread(self) -> None:
        """What is said from now on is another conversation, over the same cast."""
        self._threads += 1
        self._config = {**self._config, "configurable": {"thread_id": f"t-{self._threads}"}}

    async def say(self, text: str, *, message_id: str | None = None, **customer: str) -> dict[str, Any]:
        """A turn's result, for a message that came in over the wire."""
        given = SupervisorRequest.model_validate(
            {"messages": [{"role": "user", "content": text, "id": message_id}], "customer": customer or None}
        )
        return await self.run(given.as_input())

    async def run(self, given: dict[str, Any] | None) -> dict[str, Any]:
        """The same for an input as it is; None: go on where the last run stopped."""
        return await self._graph.ainvoke(given, self._config, context=self._context())

    async def watch(self, text: str) -> list[tuple[str, str, str]]:
        """The tokens of a turn: node, message id, text."""
        given = {"messages": [{"role": "user", "content": text}]}
        return [
            (meta["langgraph_node"], chunk.id, chunk.text)
            async for chunk, meta in self._graph.astream(given, self._config, context=self._context(), stream_mode="messages")
        ]

    async def path(self) -> list[str]:
        """The nodes of all turns in their order."""
        states = [state async for state in self._graph.aget_state_history(self._config)]
        return [task.name for state in reversed(states) for task in state.tasks if task.name != "__start__"]

    async def state(self) -> dict[str, Any]:
        return dict((await self._graph.aget_state(self._config)).values)

    def _context(self) -> Any:
        self._runs += 1
        return self.cast.context(f"run-{self._runs}", self.seconds, self.configuration)
