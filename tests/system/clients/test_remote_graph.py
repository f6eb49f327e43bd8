"""`RemoteGraph`: the service's graph in the place of a local one, alone and as a node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph.types import Command
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.errors import NotFoundError

from tests.support.engine_process import BRISK
from tests.support.fleet import Member
from tests.support.protocol import some_id


@pytest.fixture
async def remote(served: Member, key: str) -> AsyncIterator[RemoteGraph]:
    async with get_client(url=served.url, api_key=key) as client:
        with get_sync_client(url=served.url, api_key=key) as blocking:
            yield RemoteGraph(BRISK, client=client, sync_client=blocking)


def says(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def texts(values: Any) -> list[str]:
    return [message["content"] if isinstance(message, dict) else message.content for message in values["messages"]]


def on(thread_id: str | None = None) -> Any:
    return {"configurable": {"thread_id": thread_id or some_id()}}


def test_it_is_invoked_with_and_without_a_thread(remote: RemoteGraph) -> None:
    """A thread that is named is made, and remembers."""
    thread = on()

    assert texts(remote.invoke(says("alone"))) == ["alone", "alone"]
    remote.invoke(says("one"), thread)
    assert texts(remote.invoke(says("two"), thread)) == ["one", "one", "two", "two"]


async def test_it_is_invoked_asynchronously_in_the_second_shape(remote: RemoteGraph) -> None:
    """What it asks is beside the values."""
    done = await remote.ainvoke(says("one"), on(), version="v2")
    asking = await remote.ainvoke(says("refund order 7"), on(), version="v2")

    assert (texts(done.value), done.interrupts) == (["one", "one"], ())
    assert [question.value["order"] for question in asking.interrupts] == [7]


def test_it_streams_one_mode_or_many(remote: RemoteGraph) -> None:
    """As a local graph does: bare data of one mode, named data of several, tokens as pairs."""
    updates = list(remote.stream(says("one"), on(), stream_mode="updates"))
    many = [(mode, data) for mode, data in (part[:2] for part in remote.stream(says("one"), on(), stream_mode=["values", "custom"]))]
    tokens = [chunk["content"] for chunk, _ in remote.stream(says("one two three"), on(), stream_mode="messages")]

    assert [name for update in updates for name in update] == ["look_up", "echo"]
    assert {mode for mode, _ in many} == {"values"}
    assert texts(many[-1][1]) == ["one", "one"]
    assert "".join(tokens) == "one two three"


async def test_it_streams_its_subgraphs(remote: RemoteGraph) -> None:
    """Each part says where it comes from."""
    parts = [part async for part in remote.astream(says("one"), on(), stream_mode=["updates", "custom"], subgraphs=True)]
    shaped = [part async for part in remote.astream(says("one"), on(), stream_mode="updates", subgraphs=True, version="v2")]

    (noted,) = [(ns, data) for ns, mode, data in parts if mode == "custom"]
    assert noted[0][0].startswith("look_up:")
    assert noted[1] == {"looked_up": "one"}
    assert [(*part["data"],) for part in shaped if not part["ns"]] == [("look_up",), ("echo",)]
    assert [(*part["data"],) for part in shaped if part["ns"]] == [("note",)]


def test_its_state_is_read_written_and_forked(remote: RemoteGraph) -> None:
    """Latest state, history in pages, a state by hand, and a run from an older one."""
    thread = on()
    remote.invoke(says("one"), thread)
    remote.invoke(says("two"), thread)

    state = remote.get_state(thread)
    history = list(remote.get_state_history(thread, limit=50))
    older = list(remote.get_state_history(thread, limit=50, before=history[1].config))
    loops = list(remote.get_state_history(thread, limit=50, filter={"source": "input"}))
    first = next(found for found in history if texts(found.values) == ["one", "one"] if not found.next)
    again = remote.get_state(first.config)
    forked = remote.invoke(says("other"), thread, checkpoint_id=first.config["configurable"]["checkpoint_id"])
    written = remote.update_state(thread, says("by hand"), as_node="echo")

    assert (texts(state.values), state.next) == (["one", "one", "two", "two"], ())
    assert state.config["configurable"]["checkpoint_id"] == history[0].config["configurable"]["checkpoint_id"]
    assert [found.config for found in older] == [found.config for found in history[2:]]
    assert {found.metadata["source"] for found in loops} == {"input"}
    assert again.values == first.values
    assert texts(forked) == ["one", "one", "other", "other"]
    assert texts(remote.get_state(written).values) == ["one", "one", "other", "other", "by hand"]


async def test_its_state_is_read_and_written_asynchronously(remote: RemoteGraph) -> None:
    """The same through the other client."""
    thread = on()
    await remote.ainvoke(says("one"), thread)
    await remote.aupdate_state(thread, says("by hand"), as_node="echo")

    state = await remote.aget_state(thread, subgraphs=True)
    history = [found async for found in remote.aget_state_history(thread, limit=2)]

    assert texts(state.values) == ["one", "one", "by hand"]
    assert [texts(found.values) for found in history] == [["one", "one", "by hand"], ["one", "one"]]


def test_what_it_asks_is_answered(remote: RemoteGraph) -> None:
    """The question is in the stream and in the state; a `Command` answers."""
    thread = on()
    parts = list(remote.stream(says("refund order 7"), thread, stream_mode="updates"))
    state = remote.get_state(thread)
    values = remote.invoke(Command(resume="yes"), thread)

    assert parts[-1]["__interrupt__"][0]["value"]["order"] == 7
    assert [question.value["order"] for task in state.tasks for question in task.interrupts] == [7]
    assert (state.next, remote.get_state(thread).next) == (("refund",), ())
    assert texts(values) == ["refund order 7", "order 7: yes"]


def test_it_stops_where_it_is_told(remote: RemoteGraph) -> None:
    """And goes on without input."""
    thread = on()
    remote.invoke(says("one"), thread, interrupt_before=["echo"])

    assert remote.get_state(thread).next == ("echo",)
    assert texts(remote.invoke(None, thread)) == ["one", "one"]


def test_a_failure_is_raised(remote: RemoteGraph) -> None:
    """With what the service says about it, and nothing of what is inside."""
    with pytest.raises(RemoteException) as failed:
        remote.invoke(says("boom"), on())
    assert failed.value.args[0]["code"] == "internal_error"
    with pytest.raises(NotFoundError):
        remote.get_state(on())


async def test_it_streams_events_in_the_third_version(remote: RemoteGraph) -> None:
    """Over the second protocol: messages, output, subgraphs; a question is answered by a `Command` on the same thread."""
    thread = on()
    async with await remote.astream_events(says("one two"), on(), version="v3") as run:
        spoken = [message async for message in run.messages]
        said = [await message.text for message in spoken]
        output = await run.output()
    async with await remote.astream_events(says("team please"), on(), version="v3") as run:
        subgraphs = [handle.graph_name async for handle in run.subgraphs]
    async with await remote.astream_events(says("refund order 7"), thread, version="v3") as run:
        _ = [snapshot async for snapshot in run.values]
        is_interrupted, asked = await run.interrupted(), await run.interrupts()
    async with await remote.astream_events(Command(resume="yes"), thread, version="v3") as run:
        answered = [snapshot async for snapshot in run.values]

    assert said == ["one two"]
    assert texts(output) == ["one two", "one two"]
    assert subgraphs == ["look_up", "team"]
    assert (is_interrupted, [question["value"]["order"] for question in asked]) == (True, [7])
    assert texts(answered[-1]) == ["refund order 7", "order 7: yes"]


def test_it_streams_events_in_the_third_version_to_who_blocks(remote: RemoteGraph) -> None:
    """The same without asyncio; a failure is raised, and who leaves early takes the run along."""
    with remote.stream_events(says("one two"), on(), version="v3") as run:
        said = [str(message.text) for message in run.messages]
        output = run.output
    with remote.stream_events(says("boom"), on(), version="v3") as run, pytest.raises(RuntimeError, match="the run failed"):
        _ = run.output
    thread = on()
    with remote.stream_events(says("slow please"), thread, version="v3") as run:
        run.abort()
    (left,) = remote._validate_sync_client().runs.list(thread["configurable"]["thread_id"])
    ended = remote._validate_sync_client().runs.join(left["thread_id"], left["run_id"])

    assert said == ["one two"]
    assert texts(output) == ["one two", "one two"]
    assert texts(ended) in ([], ["slow please"])  # it may have been left before its first step


def around(remote: RemoteGraph) -> Any:
    """A local graph with the remote one as a node."""
    graph = StateGraph(MessagesState)
    graph.add_node("before", lambda state: {"messages": []})
    graph.add_node("remote", remote)
    graph.add_edge(START, "before")
    graph.add_edge("before", "remote")
    graph.add_edge("remote", END)
    return graph.compile(checkpointer=InMemorySaver())


async def test_it_is_a_node_of_a_local_graph(remote: RemoteGraph) -> None:
    """Its values are the node's update, and its tokens are seen through the local graph's stream."""
    local, thread = around(remote), on()

    parts = [part async for part in local.astream(says("one two"), thread, stream_mode=["messages", "updates"], subgraphs=True)]

    said = [data[0] for ns, mode, data in parts if mode == "messages" and ns and ns[0].startswith("remote:")]
    tokens = [message["content"] for message in said if isinstance(message, dict)]
    assert "".join(tokens) == "one two"
    assert texts((await local.aget_state(thread)).values) == ["one two", "one two"]


async def test_a_question_of_a_node_stops_the_local_graph(remote: RemoteGraph) -> None:
    """It is the local graph's own interrupt; who answers it says so to the remote graph, whose thread has the same id."""
    local, thread = around(remote), on()

    asking = await local.ainvoke(says("refund order 7"), thread)
    done = await remote.ainvoke(Command(resume="yes"), thread)

    assert [question.value["order"] for question in asking["__interrupt__"]] == [7]
    assert (await local.aget_state(thread)).next == ("remote",)
    assert texts(done)[-1] == "order 7: yes"


async def test_it_is_drawn(remote: RemoteGraph) -> None:
    """Nodes, edges, and what is inside of the subgraph."""
    flat, deep = remote.get_graph(), await remote.aget_graph(xray=True)

    assert {"__start__", "look_up", "echo", "__end__"} <= {*flat.nodes}
    assert "look_up:note" in deep.nodes
    assert ("echo", "__end__") in {(edge.source, edge.target) for edge in flat.edges}
