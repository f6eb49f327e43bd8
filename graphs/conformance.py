"""A graph for tests of clients and of the service: it is slow, fails, asks and streams on demand.

Registered only with `CONFORMANCE_GRAPH=true`. The last user message chooses: "slow please" takes at least 6 s in short
supersteps, "boom" raises, "refund order 7" asks for approval and answers after it, "team please" is answered word by word in a
subgraph, anything else is echoed word by word.

    START → look_up (a subgraph) ─┬→ slow ⟲ → echo → END
                                  ├→ boom
                                  ├→ refund → echo
                                  ├→ team (a subgraph that speaks) → END
                                  └→ echo
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Protocol

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from typing_extensions import TypedDict

SLOW_STEPS = 24
STEP = 0.25
"""Seconds; 24 of them are the 6 s that "slow please" promises."""
RECURSION_LIMIT = SLOW_STEPS + 6
"""Supersteps of one run: the slow ones, the look-up, the echo, and some to spare."""
_NODES = {"slow please": "slow", "boom": "boom", "refund order 7": "refund", "team please": "team"}


class ConformanceState(TypedDict, total=False):
    """What the conformance graph remembers. All but `messages` begins anew with each message of the user."""

    messages: Annotated[list[AnyMessage], add_messages]
    notes: list[str]  # what the subgraph wrote
    steps: int  # slow steps done
    approval: Any  # the answer to "refund order 7", in a list of one; empty: nobody was asked


class Node(Protocol):
    """A node of this graph."""

    async def __call__(self, state: ConformanceState) -> ConformanceState:
        """The update that the node makes to the state."""
        ...


class EchoModel(BaseChatModel):
    """Says the last message again, a word at a time."""

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(messages[-1].text))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        words = messages[-1].text.split(" ")
        for i, word in enumerate(words):
            await asyncio.sleep(0)
            yield ChatGenerationChunk(message=AIMessageChunk(content=word if i == 0 else f" {word}"))


def _asked(state: ConformanceState) -> str:
    return next((message.text for message in reversed(state["messages"]) if isinstance(message, HumanMessage)), "")


async def note(state: ConformanceState) -> ConformanceState:
    """The subgraph's only node: begin the turn."""
    get_stream_writer()({"looked_up": _asked(state)})
    return {"notes": [_asked(state)], "steps": 0, "approval": []}


async def speak(state: ConformanceState) -> ConformanceState:
    """The only node of the subgraph that answers."""
    get_stream_writer()({"name": "progress", "payload": {"speaks": "team"}})
    return {"messages": [await EchoModel().ainvoke([HumanMessage("the team says hello")])]}


def choose(state: ConformanceState) -> str:
    """The node that the last user message names."""
    return _NODES.get(_asked(state).strip().lower(), "echo")


def slow_for(step: float) -> Node:
    """The node that takes `step` seconds, one short step of many."""

    async def slow(state: ConformanceState) -> ConformanceState:
        await asyncio.sleep(step)
        steps = state.get("steps", 0) + 1
        get_stream_writer()({"step": steps, "of": SLOW_STEPS})
        return {"steps": steps}

    return slow


def slow_again(state: ConformanceState) -> str:
    """`slow` until all steps are done."""
    return "slow" if state.get("steps", 0) < SLOW_STEPS else "echo"


async def boom(state: ConformanceState) -> ConformanceState:
    """Fail with an error that nobody foresaw."""
    raise ValueError("boom")


async def refund(state: ConformanceState) -> ConformanceState:
    """Ask a human; the node begins again with the answer."""
    return {"approval": [interrupt({"action": "refund", "order": 7, "question": "Refund order 7?"})]}


async def echo(state: ConformanceState) -> ConformanceState:
    """Answer token by token."""
    approval = state.get("approval")
    text = f"order 7: {approval[0]}" if approval else _asked(state)
    return {"messages": [await EchoModel().ainvoke([HumanMessage(text)])]}


def build_conformance(step: float = STEP) -> StateGraph[ConformanceState]:
    """The conformance graph, not compiled yet.

    Args:
        step: How long each of the `SLOW_STEPS` takes, seconds.
    """
    look_up = StateGraph(ConformanceState)
    look_up.add_node("note", note)
    look_up.add_edge(START, "note")

    team = StateGraph(ConformanceState)
    team.add_node("speak", speak)
    team.add_edge(START, "speak")

    graph = StateGraph(ConformanceState)
    graph.add_node("look_up", look_up.compile())
    graph.add_node("slow", slow_for(step))
    graph.add_node("boom", boom)
    graph.add_node("refund", refund)
    graph.add_node("team", team.compile())
    graph.add_node("echo", echo)
    graph.add_edge(START, "look_up")
    graph.add_conditional_edges("look_up", choose, ["slow", "boom", "refund", "team", "echo"])
    graph.add_conditional_edges("slow", slow_again, ["slow", "echo"])
    graph.add_edge("boom", END)
    graph.add_edge("refund", "echo")
    graph.add_edge("team", END)
    graph.add_edge("echo", END)
    return graph
