"""The service and its workers as processes that a test may kill, with a graph that sticks on demand.

The modules are imported once, by a fork server; each process is a fork of it, so that it is there in a tenth of a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from pydantic import BaseModel, ConfigDict

from app.bootstrap.running import run
from app.main import serve
from app.worker import work
from graphs.conformance import RECURSION_LIMIT, ConformanceState, Node, build_conformance
from graphs.context import RunScope
from graphs.input import SupervisorRequest, SupervisorUpdate
from graphs.registry import GraphEntry

Kind = Literal["gateway", "worker"]
BRISK, STICKY, ASKING, MOODY, NESTED, REMEMBERING = "brisk", "sticky", "asking", "moody", "nested", "remembering"
"""The conformance graph with short steps; one whose only node blocks or hangs; one that asks two questions at once; one that must be told
how it feels; one that asks inside a subgraph; one with a memory."""


class Mood(BaseModel):
    """The context of the moody graph."""

    model_config = ConfigDict(extra="forbid")

    mood: str
    strength: int = 1


def build_moody() -> StateGraph[ConformanceState, Mood]:
    """It says how it feels."""

    async def say(state: ConformanceState, runtime: Runtime[Mood]) -> ConformanceState:
        return {"messages": [AIMessage(" ".join(["very"] * (runtime.context.strength - 1) + [runtime.context.mood]))]}

    graph = StateGraph(ConformanceState, context_schema=Mood)
    graph.add_node("say", say)
    graph.add_edge(START, "say")
    graph.add_edge("say", END)
    return graph


def build_sticky(*, hangs: bool) -> StateGraph[ConformanceState]:
    """ "block 6" blocks the event loop for 6 s, "hang" waits for ever if `hangs`, "die" ends the process; then there is an answer."""

    async def begin(state: ConformanceState) -> ConformanceState:
        return {"steps": 0}

    async def stick(state: ConformanceState) -> ConformanceState:
        word, _, seconds = state["messages"][-1].text.partition(" ")
        if word == "block":
            time.sleep(float(seconds))  # noqa: ASYNC251  the fault that is tested
        elif word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif hangs:
            await asyncio.Event().wait()
        return {"messages": [AIMessage("unstuck")]}

    graph = StateGraph(ConformanceState)
    graph.add_node("begin", begin)
    graph.add_node("stick", stick)
    graph.add_edge(START, "begin")
    graph.add_edge("begin", "stick")
    graph.add_edge("stick", END)
    return graph


def build_asking() -> StateGraph[ConformanceState]:
    """Two nodes ask beside each other, and again if the answer is "again"; then there is an answer of both."""

    async def begin(state: ConformanceState) -> ConformanceState:
        return {"messages": [AIMessage("begun")], "steps": 0}

    def asks(name: str) -> Node:
        async def ask(state: ConformanceState) -> ConformanceState:
            answer = interrupt({"question": name, "notice": f"somebody is asked: {name}"})
            while answer == "again":
                answer = interrupt({"question": name, "error": "again"})
            return {"messages": [AIMessage(f"{name}: {answer}")]}

        return ask

    async def finish(state: ConformanceState) -> ConformanceState:
        return {"messages": [AIMessage("finished")]}

    graph = StateGraph(ConformanceState)
    graph.add_node("begin", begin)
    graph.add_node("left", asks("left"))
    graph.add_node("right", asks("right"))
    graph.add_node("finish", finish)
    graph.add_edge(START, "begin")
    graph.add_edge("begin", "left")
    graph.add_edge("begin", "right")
    graph.add_edge(["left", "right"], "finish")
    graph.add_edge("finish", END)
    return graph


def build_nested() -> StateGraph[ConformanceState]:
    """A subgraph takes a note, asks, and takes a note of the answer; the graph says what it was."""

    async def before(state: ConformanceState) -> ConformanceState:
        return {"notes": ["before"]}

    async def ask(state: ConformanceState) -> ConformanceState:
        return {"notes": [*state["notes"], interrupt("inside?")]}

    async def after(state: ConformanceState) -> ConformanceState:
        return {"messages": [AIMessage(f"after: {state['notes'][-1]}")]}

    inner = StateGraph(ConformanceState)
    inner.add_node("before", before)
    inner.add_node("ask", ask)
    inner.add_edge(START, "before")
    inner.add_edge("before", "ask")
    graph = StateGraph(ConformanceState)
    graph.add_node("inner", inner.compile())
    graph.add_node("after", after)
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "after")
    graph.add_edge("after", END)
    return graph


def build_remembering() -> StateGraph[ConformanceState]:
    """ "async red" remembers "red" and says what was remembered before; "sync" and "tool" do so in a synchronous node and in a tool."""

    def answer(state: ConformanceState, item: Any) -> ConformanceState:
        before = item.value["text"] if item else "nothing"
        return {"messages": [AIMessage(f"{state['messages'][-1].text.partition(' ')[0]} before: {before}")]}

    async def remember(state: ConformanceState, runtime: Runtime[None]) -> ConformanceState:
        assert runtime.store is not None
        namespace, text = ("notes", "async"), state["messages"][-1].text.partition(" ")[2]
        item = await runtime.store.aget(namespace, "latest")
        await runtime.store.aput(namespace, "latest", {"text": text})
        return answer(state, item)

    def remember_blocking(state: ConformanceState, runtime: Runtime[None]) -> ConformanceState:
        assert runtime.store is not None
        namespace, text = ("notes", "sync"), state["messages"][-1].text.partition(" ")[2]
        item = runtime.store.get(namespace, "latest")
        runtime.store.put(namespace, "latest", {"text": text})
        return answer(state, item)

    @tool
    async def swap(text: str) -> Any:
        """Remember `text`; returns what was remembered before."""
        store, namespace = get_store(), ("notes", "tool")
        item = await store.aget(namespace, "latest")
        await store.aput(namespace, "latest", {"text": text})
        return item

    async def call_tool(state: ConformanceState) -> ConformanceState:
        return answer(state, await swap.ainvoke({"text": state["messages"][-1].text.partition(" ")[2]}))

    graph = StateGraph(ConformanceState)
    graph.add_node("async", remember)
    graph.add_node("sync", remember_blocking)
    graph.add_node("tool", call_tool)
    graph.add_conditional_edges(START, lambda state: state["messages"][-1].text.partition(" ")[0], ["async", "sync", "tool"])
    return graph


def main(kind: Kind, variables: dict[str, str], log: str, *, step: float, hangs: bool) -> None:
    """Be a gateway or a worker with these settings and nothing of the parent's; what is said goes to the file `log`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(variables)
    graphs = {BRISK: build_conformance(step), STICKY: build_sticky(hangs=hangs), ASKING: build_asking(), NESTED: build_nested()}
    more = [_entry(graph_id, graph) for graph_id, graph in {**graphs, REMEMBERING: build_remembering()}.items()]
    more.append(_entry(MOODY, build_moody(), Mood, lambda scope: scope.configuration))
    run(partial(serve if kind == "gateway" else work, more=more))


def _entry(
    graph_id: str,
    graph: StateGraph[Any, Any],
    context_schema: type[BaseModel] | None = None,
    make_context: Callable[[RunScope], object] = lambda scope: None,
) -> GraphEntry:
    return GraphEntry(
        graph_id=graph_id,
        graph=graph.compile(name=graph_id),
        accepts=SupervisorRequest,
        accepts_update=SupervisorUpdate,
        as_input=SupervisorUpdate.as_input,
        shown=None,
        recursion_limit=RECURSION_LIMIT,
        make_context=make_context,
        context_schema=context_schema,
    )
