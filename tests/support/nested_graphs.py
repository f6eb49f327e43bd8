"""Small graphs with a subgraph in a subgraph, as the service knows graphs."""

from __future__ import annotations

from langgraph.graph import START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from graphs.configuration import SupervisorConfiguration
from graphs.registry import GraphEntry


class State(TypedDict):
    n: int


class Accepts(BaseModel):
    """What goes in."""

    n: int


def entry(graph_id: str, schema: type[BaseModel] | None = SupervisorConfiguration, state: type = State) -> GraphEntry:
    """START → middle (START → inner (START → leaf))."""
    inner = StateGraph(state)
    inner.add_node("leaf", lambda state: {})
    inner.add_edge(START, "leaf")
    middle = StateGraph(state)
    middle.add_node("inner", inner.compile())
    middle.add_edge(START, "inner")
    graph = StateGraph(state)
    graph.add_node("middle", middle.compile())
    graph.add_edge(START, "middle")
    return GraphEntry(graph_id, graph.compile(), Accepts, Accepts, dict, None, 10, lambda scope: None, schema)


GRAPHS = {graph_id: entry(graph_id) for graph_id in ("b", "a")}
