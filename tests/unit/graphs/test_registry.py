"""How a graph is known from outside."""

import pytest
from langgraph.graph import START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from graphs.registry import GraphEntry


class State(TypedDict):
    n: int


def entry(graph_id: str) -> GraphEntry:
    graph = StateGraph(State)
    graph.add_node("node", lambda state: {})
    graph.add_edge(START, "node")
    return GraphEntry(graph_id, graph.compile(), BaseModel, BaseModel, dict, None, 10, lambda scope: None)


@pytest.mark.parametrize(("graph_id", "assistant_id"), [("agent", "fe096781-5601-53d2-b2f6-0d3403f7e9ca")])
def test_a_graphs_assistant_has_the_id_that_other_servers_give_it(graph_id, assistant_id):
    """Clients keep it in their settings; the value is the reference server's for a graph of that name."""
    assert entry(graph_id).assistant_id == assistant_id


def test_two_graphs_have_two_assistants():
    """The id is made from the name and nothing else."""
    assert entry("a").assistant_id == entry("a").assistant_id != entry("b").assistant_id
