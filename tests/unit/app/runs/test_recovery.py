"""Where a further attempt of a run begins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from app.runs.recovery import recover
from app.storage.redis.runs import RunRecord

NOW = datetime(2026, 11, 21, tzinfo=UTC)
INPUT = {"path": ""}


class State(TypedDict):
    path: str


class Crash(BaseException):
    """What a process that dies looks like from inside."""


def a_run(**breakpoints: Any) -> RunRecord:
    kwargs = {"interrupt_before": [], "interrupt_after": [], **breakpoints}
    return RunRecord("r", "t", "a", "g", "running", NOW, NOW, NOW, kwargs=kwargs, attempt=2)


def a_graph(*, dies: bool = False) -> Any:
    """START → one → two → three."""

    def node(name: str):
        def add(state: State) -> State:
            if dies and name == "two":
                raise Crash
            return {"path": f"{state['path']} {name}".strip()}

        return add

    graph = StateGraph(State)
    for name, following in (("one", "two"), ("two", "three"), ("three", END)):
        graph.add_node(name, node(name))
        graph.add_edge(name, following)
    graph.add_edge(START, "one")
    return graph.compile(checkpointer=InMemorySaver())


def a_config(run_id: str = "r", attempt: int = 1) -> dict[str, Any]:
    return {"configurable": {"thread_id": "t", "checkpoint_ns": ""}, "metadata": {"run_id": run_id, "run_attempt": attempt}}


async def test_without_a_checkpoint_of_its_own_the_run_begins_anew():
    """What an earlier run of the thread left is no progress of this one."""
    graph = a_graph()
    await graph.ainvoke(INPUT, a_config("earlier"))
    left = await recover(graph, a_run(), a_config(attempt=2), INPUT)
    assert (left.begin, left.attempt, left.is_at_breakpoint) == (INPUT, 0, False)


async def test_after_a_crash_the_run_goes_on_from_its_last_checkpoint():
    """It knows which attempt wrote that, and is at no breakpoint."""
    graph = a_graph(dies=True)
    with pytest.raises(Crash):
        await graph.ainvoke(INPUT, a_config(), durability="sync")
    left = await recover(graph, a_run(interrupt_before=["three"]), a_config(attempt=2), INPUT)
    assert (left.begin, left.state, left.attempt, left.is_at_breakpoint) == (None, {"path": "one"}, 1, False)


@pytest.mark.parametrize(
    "breakpoints",
    [{"interrupt_before": ["two"]}, {"interrupt_after": ["one"]}, {"interrupt_before": "*"}, {"interrupt_after": "*"}],
    ids=str,
)
async def test_a_breakpoint_is_not_passed_because_the_process_died_there(breakpoints):
    """The run had stopped and its process died before it could say so: the next attempt stops at the same place."""
    graph = a_graph()
    await graph.ainvoke(INPUT, a_config(), **breakpoints)
    left = await recover(graph, a_run(**breakpoints), a_config(attempt=2), INPUT)
    assert left.is_at_breakpoint


async def test_a_run_that_passes_a_breakpoint_of_its_predecessor_is_not_at_one():
    """It went on from there and died in the next node but one."""
    graph = a_graph()
    await graph.ainvoke(INPUT, a_config("earlier"), interrupt_before=["two"])
    await graph.ainvoke(None, a_config(), interrupt_before=["three"])
    left = await recover(graph, a_run(interrupt_before=["two"]), a_config(attempt=2), None)
    assert not left.is_at_breakpoint
