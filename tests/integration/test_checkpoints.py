"""What LangGraph's conformance suite does not ask of a saver: forks, outages, order, lifetime, fences, tenants."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Overwrite, interrupt
from typing_extensions import TypedDict

from app.storage.errors import LeaseLost, StorageUnavailable
from app.storage.redis.checkpoints import Fence, RedisSaver
from app.storage.redis.connection import connect
from app.storage.redis.keys import ThreadKeys

THREAD = "t-1"


def config_of(thread_id=THREAD, ns="", checkpoint_id=None) -> Any:
    settings = {"thread_id": thread_id, "checkpoint_ns": ns}
    return {"configurable": settings | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


async def put(saver, values, parent=None, *, thread_id=THREAD, ns="", versions=None, new=None, **metadata):
    """Store one checkpoint; by default every channel is new in it."""
    checkpoint = empty_checkpoint()
    versions = versions or {channel: saver.get_next_version(None, None) for channel in values}
    checkpoint |= {"channel_values": values, "channel_versions": versions}
    return await saver.aput(
        parent or config_of(thread_id, ns), checkpoint, {"source": "loop", "step": 0, **metadata}, versions if new is None else new
    )


def id_of(config):
    return config["configurable"]["checkpoint_id"]


@pytest.fixture
def saver(redis_client):
    return RedisSaver(redis_client)


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[str], operator.add]


def approval_graph(checkpointer):
    """Two nodes; the first asks a human."""

    async def ask(state):
        answer = interrupt({"question": "go on?"})
        return {"messages": [AIMessage("asked", id="a1", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "c1"}])], "log": [answer]}

    async def act(state):
        return {"messages": [ToolMessage("done", tool_call_id="c1", id="m1")], "log": ["acted"]}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("act", act)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "act")
    graph.add_edge("act", END)
    return graph.compile(checkpointer=checkpointer)


async def test_a_graph_is_interrupted_and_resumed_elsewhere(redis_url, saver):
    """What one process left, another one with its own client continues, messages and all."""
    config = {"configurable": {"thread_id": THREAD}}
    first = await approval_graph(saver).ainvoke({"messages": [HumanMessage("hi", id="h1")], "log": []}, config, version="v2")
    assert [i.value for i in first.interrupts] == [{"question": "go on?"}]

    other = connect(redis_url)
    graph = approval_graph(RedisSaver(other))
    assert (await graph.aget_state(config)).next == ("ask",)
    state = await graph.ainvoke(Command(resume="yes"), config)

    assert [(type(m), m.text, m.id) for m in state["messages"]] == [
        (HumanMessage, "hi", "h1"),
        (AIMessage, "asked", "a1"),
        (ToolMessage, "done", "m1"),
    ]
    assert state["messages"][1].tool_calls[0]["args"] == {"x": 1}
    assert state["log"] == ["yes", "acted"]
    assert [s.metadata["step"] async for s in graph.aget_state_history(config)] == [2, 1, 0, -1]
    await other.aclose()


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_graph_leaves_what_the_reference_leaves(saver, durability):
    """State and history are those that LangGraph's own in-memory saver gives."""
    config: Any = {"configurable": {"thread_id": THREAD}}
    histories = []
    for checkpointer in (saver, InMemorySaver()):
        graph = approval_graph(checkpointer)
        await graph.ainvoke({"messages": [HumanMessage("hi", id="h1")], "log": []}, config, durability=durability)
        await graph.ainvoke(Command(resume="yes"), config, durability=durability)
        history = [s async for s in graph.aget_state_history(config)]
        histories.append([(s.values, s.next, s.metadata, [t.name for t in s.tasks], s.parent_config is None) for s in history])

    assert histories[0] == histories[1]


async def test_a_fork_keeps_the_original_branch(saver):
    """Both branches of a fork can be read, each with its own values, though they count the same versions."""
    config: Any = {"configurable": {"thread_id": THREAD}}
    graph = approval_graph(saver)
    await graph.ainvoke({"messages": [HumanMessage("hi", id="h1")], "log": []}, config)
    await graph.ainvoke(Command(resume="first"), config)
    original = await graph.aget_state(config)
    asked = await anext(s async for s in graph.aget_state_history(config) if s.next == ("ask",))

    fork = await graph.aupdate_state(asked.config, {"log": ["second"]}, as_node="ask")
    await graph.ainvoke(None, fork)

    assert (await graph.aget_state(config)).values["log"] == ["second", "acted"]
    assert (await graph.aget_state(original.config)).values["log"] == ["first", "acted"]


async def test_versions_of_two_branches_differ_and_grow(saver):
    """The same step taken twice gives two versions, both later than the one before."""
    first = saver.get_next_version(None, None)
    one, other = saver.get_next_version(first, None), saver.get_next_version(first, None)

    assert first < one
    assert first < other
    assert one != other
    assert saver.get_next_version("0000000009.ffffffff", None) > "0000000009.ffffffff"


OPERATIONS = {
    "get": lambda saver, stored: saver.aget_tuple(stored),
    "latest": lambda saver, stored: saver.aget_tuple(config_of()),
    "list": lambda saver, stored: anext(saver.alist(config_of())),
    "list of all": lambda saver, stored: anext(saver.alist(None)),
    "put": lambda saver, stored: put(saver, {"a": 2}, stored),
    "put_writes": lambda saver, stored: saver.aput_writes(stored, [("a", 1)], "task"),
    "delete_thread": lambda saver, stored: saver.adelete_thread(THREAD),
    "delete_for_runs": lambda saver, stored: saver.adelete_for_runs(["r"]),
    "copy_thread": lambda saver, stored: saver.acopy_thread(THREAD, "copy"),
    "prune": lambda saver, stored: saver.aprune([THREAD]),
    "delta history": lambda saver, stored: saver.aget_delta_channel_history(config=stored, channels=["a"]),
}


async def test_an_outage_raises_and_never_looks_empty(own_redis):
    """With the server killed every operation says so; none answers that there is nothing."""
    client = connect(own_redis.url)
    saver = RedisSaver(client)
    stored = await put(saver, {"a": 1})
    await asyncio.to_thread(own_redis.kill)

    for name, operation in OPERATIONS.items():
        with pytest.raises(StorageUnavailable):
            pytest.fail(f"{name} answered {await operation(saver, stored)!r}")
    await client.aclose()


@pytest.mark.parametrize("name", ["get", "latest", "list", "put", "put_writes", "delete_thread", "prune", "delta history"])
async def test_an_operation_is_one_round_trip(redis_client, saver, name):
    """The server sees a single command for it."""
    stored = await put(saver, {"a": 1})
    await OPERATIONS[name](saver, stored)  # the script is known from here on
    stored = await put(saver, {"a": 1})
    await redis_client.config_resetstat()

    await OPERATIONS[name](saver, stored)

    calls = {k: v["calls"] for k, v in (await redis_client.info("commandstats")).items()}
    assert calls.get("cmdstat_evalsha", 0) + calls.get("cmdstat_unlink", 0) == 1
    assert not {"cmdstat_eval", "cmdstat_script", "cmdstat_multi", "cmdstat_exec"} & set(calls)


async def test_writes_come_in_the_order_of_the_run(saver):
    """By task path, task and position, however they arrived; that is the order in which reducers saw them."""
    stored = await put(saver, {})
    await saver.aput_writes(stored, [("x", i) for i in range(12)], "task-b", "~__pregel_pull, a")
    await saver.aput_writes(stored, [("x", "first")], "task-z")
    await saver.aput_writes(stored, [("x", "last")], "task-a", "~__pregel_pull, b")

    found = await saver.aget_tuple(stored)

    assert [value for _, _, value in found.pending_writes] == ["first", *range(12), "last"]


async def test_a_task_that_runs_again_keeps_its_writes_but_replaces_its_signals(saver):
    """Ordinary writes are kept as they were first; errors, interrupts and resumes are what they were last."""
    reference = InMemorySaver()
    config = config_of(checkpoint_id="1")
    for target in (saver, reference):
        await target.aput(config_of(), empty_checkpoint() | {"id": "1"}, {}, {})
        await target.aput_writes(config, [("x", 1), (INTERRUPT, "a"), (RESUME, "a")], "task")
        await target.aput_writes(config, [("x", 2), (INTERRUPT, "b"), ("y", 3), (RESUME, "b"), (ERROR, "e")], "task")

    found: Any = await saver.aget_tuple(config)
    expected: Any = await reference.aget_tuple(config)

    assert found.pending_writes == expected.pending_writes


async def test_an_unchanged_channel_is_not_stored_again(redis_client, saver):
    """A hundred checkpoints over one big value cost a hundred checkpoints, not a hundred big values."""
    big, config = "x" * 10_000, None
    versions = {"big": saver.get_next_version(None, None)}
    for step in range(100):
        config = await put(saver, {"big": big}, config, versions=versions, new=versions if step == 0 else {})

    assert (await saver.aget_tuple(config)).checkpoint["channel_values"] == {"big": big}
    assert await redis_client.memory_usage(ThreadKeys("default", THREAD).checkpoints(), samples=0) < 100_000


async def test_a_thread_expires_as_a_whole_and_every_write_renews_it(redis_client):
    """Both keys get the same lifetime in the same step, from puts and from writes."""
    saver = RedisSaver(redis_client, ttl=100)
    keys = ThreadKeys("default", THREAD)
    both = [keys.checkpoints(), keys.checkpoint_index()]

    for write in (lambda: put(saver, {"a": 1}), lambda: saver.aput_writes(config_of(checkpoint_id="1"), [("a", 1)], "t")):
        await asyncio.gather(*(redis_client.expire(key, 10) for key in both))
        await write()
        assert all([90_000 < await redis_client.pttl(key) <= 100_000 for key in both])
    await saver.acopy_thread(THREAD, "copy")
    assert await redis_client.ttl(ThreadKeys("default", "copy").checkpoints()) > 90


async def test_without_a_lifetime_a_thread_stays(redis_client, saver):
    """None means for ever."""
    await put(saver, {"a": 1})

    assert await redis_client.ttl(ThreadKeys("default", THREAD).checkpoints()) == -1


@pytest.mark.parametrize("thread_id", ["a}b{c", "{}", "a:b", "*", "ñandú 🦙", "a/../b", "%7B", "line\nbreak", "nul\0nul", " ", ""])
async def test_a_thread_id_may_be_anything(saver, thread_id):
    """Any text names its own thread, and comes back unchanged."""
    await put(saver, {"a": "other"}, thread_id="a")
    stored = await put(saver, {"a": "mine"}, thread_id=thread_id)

    assert stored["configurable"]["thread_id"] == thread_id
    assert (await saver.aget_tuple(config_of(thread_id))).checkpoint["channel_values"] == {"a": "mine"}
    assert {t.config["configurable"]["thread_id"] async for t in saver.alist(None)} == {"a", thread_id}
    await saver.adelete_thread(thread_id)
    assert await saver.aget_tuple(config_of(thread_id)) is None
    assert await saver.aget_tuple(config_of("a")) is not None


async def test_names_inside_a_thread_may_be_long_and_odd(saver):
    """Namespaces, checkpoint ids and channels come back as they went in, and do not run into each other."""
    long = "channel-" + "x" * 300
    await saver.aput(config_of(ns="a%00|b\0c"), empty_checkpoint() | {"id": "i\0d"}, {}, {})
    await saver.aput(config_of(ns="a%00|b"), empty_checkpoint() | {"id": "z"}, {}, {})
    await put(saver, {long: 1, "número": 2})

    odd = await saver.aget_tuple(config_of(ns="a%00|b\0c"))
    assert (odd.config["configurable"]["checkpoint_ns"], id_of(odd.config)) == ("a%00|b\0c", "i\0d")
    assert (await saver.aget_tuple(config_of())).checkpoint["channel_values"] == {long: 1, "número": 2}


async def test_two_tenants_may_use_the_same_thread_id(saver):
    """One tenant neither sees, lists, copies nor deletes what the other has."""
    acme, globex = saver.bind(tenant="acme"), saver.bind(tenant="globex")
    await put(acme, {"a": "acme"}, run_id="r")
    await put(globex, {"a": "globex"}, run_id="r")

    assert [t.checkpoint["channel_values"] async for t in acme.alist(None)] == [{"a": "acme"}]
    await acme.adelete_for_runs(["r"])
    await acme.adelete_thread(THREAD)
    assert await acme.aget_tuple(config_of()) is None
    assert await saver.aget_tuple(config_of()) is None
    assert (await globex.aget_tuple(config_of())).checkpoint["channel_values"] == {"a": "globex"}


async def test_only_the_holder_of_the_lease_writes(redis_client, saver):
    """A run whose lease went to another writes nothing at all; reading stays open to it."""
    key = ThreadKeys("acme", THREAD).lease()
    old, new = (saver.bind(tenant="acme", fence=Fence(key, token)) for token in ("1", "2"))
    await redis_client.set(key, "1")
    stored = await put(old, {"a": "old"})
    await redis_client.set(key, "2")

    with pytest.raises(LeaseLost):
        await put(old, {"a": "late"}, stored)
    with pytest.raises(LeaseLost):
        await old.aput_writes(stored, [("a", "late")], "task")
    await put(new, {"a": "new"}, stored)
    await redis_client.delete(key)
    with pytest.raises(LeaseLost):
        await put(new, {"a": "late"}, stored)

    assert [t.checkpoint["channel_values"] async for t in old.alist(config_of())] == [{"a": "new"}, {"a": "old"}]
    assert (await old.aget_tuple(stored)).pending_writes == []


async def test_a_graph_stops_when_its_lease_is_lost(redis_client, saver):
    """The error reaches the caller of the graph, and the node after the loss leaves no trace."""
    key = ThreadKeys("acme", THREAD).lease()
    await redis_client.set(key, "1")
    steps = []

    async def first(state):
        steps.append("first")
        return {"log": ["first"]}

    async def second(state):
        await redis_client.set(key, "2")
        return {"log": ["second"]}

    graph = StateGraph(State)
    graph.add_sequence([first, second])
    graph.add_edge(START, "first")
    compiled = graph.compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": THREAD}}
    run = compiled.copy({"checkpointer": saver.bind(tenant="acme", fence=Fence(key, "1"))})

    with pytest.raises(LeaseLost):
        await run.ainvoke({"messages": [], "log": []}, config, durability="sync")

    found = await compiled.copy({"checkpointer": saver.bind(tenant="acme")}).aget_state(config)
    assert found.values["log"] == ["first"]
    assert found.next == ("second",)


async def test_long_lists_are_read_page_by_page(saver):
    """Limits, filters, `before` and namespaces agree with each other over several pages."""
    stored = []
    for step in range(80):
        stored.append(await put(saver, {"n": step}, step=step, even=step % 2 == 0))
        if step < 5:
            await put(saver, {"n": -step}, ns="child:1", step=step)

    async def steps(config, **options):
        return [t.metadata["step"] async for t in saver.alist(config, **options)]

    assert await steps(config_of()) == list(range(79, -1, -1))
    assert await steps(config_of(), limit=40) == list(range(79, 39, -1))
    assert await steps(config_of(), filter={"even": True}, limit=35) == list(range(78, 8, -2))
    assert await steps(config_of(), before=stored[70], limit=2) == [69, 68]
    assert await steps(config_of(), limit=0) == []
    assert await steps(stored[3]) == [3]
    assert await steps(config_of(ns="child:1")) == [4, 3, 2, 1, 0]
    everywhere = [t async for t in saver.alist({"configurable": {"thread_id": THREAD}})]
    assert len(everywhere) == 85
    assert [id_of(t.config) for t in everywhere] == sorted((id_of(t.config) for t in everywhere), reverse=True)


async def test_forgetting_runs_removes_all_that_was_theirs_alone(redis_client, saver):
    """Checkpoints, writes and values of the run go; what other checkpoints use stays."""
    versions = {"kept": saver.get_next_version(None, None)}
    kept = await put(saver, {"kept": 1}, versions=versions, run_id="r1")
    await saver.aput_writes(kept, [("x", 1)], "task")
    fields = await redis_client.hlen(ThreadKeys("default", THREAD).checkpoints())
    later = versions | {"gone": saver.get_next_version(None, None)}
    gone = await put(saver, {"kept": 1, "gone": 2}, kept, versions=later, new={"gone": later["gone"]}, run_id="r2")
    await saver.aput_writes(gone, [("x", 2)], "task")

    await saver.adelete_for_runs(["r2"], thread_id="elsewhere")
    assert id_of((await saver.aget_tuple(config_of())).config) == id_of(gone)
    await saver.adelete_for_runs(["r2"], thread_id=THREAD)

    found = await saver.aget_tuple(config_of())
    assert found.checkpoint["channel_values"] == {"kept": 1}
    assert [value for _, _, value in found.pending_writes] == [1]
    assert await redis_client.hlen(ThreadKeys("default", THREAD).checkpoints()) == fields
    assert await redis_client.zcard(ThreadKeys("default", THREAD).checkpoint_index()) == 2


def delta_graph(checkpointer):
    """One node that adds to a list of which LangGraph stores the additions only."""

    class Delta(TypedDict):
        items: Annotated[list[str], DeltaChannel(lambda value, writes: [*value, *(i for w in writes for i in w)], snapshot_frequency=7)]

    async def work(state):
        return {"items": [f"answer {len(state['items'])}"]}

    graph = StateGraph(Delta)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    return graph.compile(checkpointer=checkpointer)


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_a_delta_channel_is_rebuilt_as_the_reference_rebuilds_it(saver):
    """At every checkpoint, before and after snapshots."""
    config: Any = {"configurable": {"thread_id": THREAD}}
    reference = InMemorySaver()
    for turn in range(6):
        for checkpointer in (saver, reference):
            await delta_graph(checkpointer).ainvoke({"items": [f"question {turn}"]}, config)

    found = [s.values async for s in delta_graph(saver).aget_state_history(config)]
    assert found == [s.values async for s in delta_graph(reference).aget_state_history(config)]
    assert len(found[0]["items"]) == 12


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
@pytest.mark.parametrize("turns", range(1, 9))
async def test_pruning_keeps_what_a_delta_channel_is_made_of(saver, turns):
    """After `keep_latest` the state is what it was, and the thread can go on."""
    config: Any = {"configurable": {"thread_id": THREAD}}
    graph = delta_graph(saver)
    for turn in range(turns):
        await graph.ainvoke({"items": [f"question {turn}"]}, config)
    before = (await graph.aget_state(config)).values

    await saver.aprune([THREAD])

    assert (await graph.aget_state(config)).values == before
    await graph.ainvoke({"items": ["more"]}, config)
    assert (await graph.aget_state(config)).values["items"][:-2] == before["items"]


async def test_only_safe_types_are_revived(saver):
    """A class that LangGraph does not call safe comes back as plain data: stored bytes cannot name code to run."""
    stored = await put(saver, {"safe": HumanMessage("hi"), "other": Fence("k", "t"), "overwrite": Overwrite([1])})

    values = (await saver.aget_tuple(stored)).checkpoint["channel_values"]

    assert isinstance(values["safe"], HumanMessage)
    assert isinstance(values["overwrite"], Overwrite)
    assert not isinstance(values["other"], Fence)


async def test_an_unknown_strategy_is_refused(saver):
    """Nothing is pruned by a misspelling."""
    with pytest.raises(ValueError, match="keep_latest"):
        await saver.aprune([THREAD], strategy="keep-latest")


def test_synchronous_use_is_refused_with_a_remedy(shared_redis):
    """The error names the asynchronous methods."""
    graph = approval_graph(RedisSaver(connect(shared_redis.url)))

    with pytest.raises(NotImplementedError, match="aget_state"):
        graph.get_state({"configurable": {"thread_id": THREAD}})
