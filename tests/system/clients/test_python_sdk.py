"""LangGraph's Python SDK, asynchronous and blocking: every method of its clients, each claim written once for both."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.errors import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    UnprocessableEntityError,
)

from tests.support.engine_process import ASKING, BRISK, MOODY, STICKY
from tests.support.fleet import Member
from tests.support.protocol import GRAPH, some_id
from tests.support.webhook_receiver import WebhookReceiver

LIMIT = 20.0
"""Seconds that a thread stream may take."""
SYSTEM = {"created_by": "system"}
RESOURCES = ("assistants", "threads", "runs", "crons", "store")
SOURCE = Path(__file__).read_text("utf-8")


class Sdk:
    """Both clients behind one face: `await sdk("threads.create", …)`, `async for part in sdk.each("runs.stream", …)`."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def __call__(self, method: str, /, *args: Any, **wishes: Any) -> Any:
        resource, _, called = method.partition(".")
        found = getattr(getattr(self.client, resource), called)(*args, **wishes)
        return await found if inspect.isawaitable(found) else found

    async def each(self, method: str, /, *args: Any, **wishes: Any) -> AsyncIterator[Any]:
        found = await self(method, *args, **wishes)
        if hasattr(found, "__aiter__"):
            async for part in found:
                yield part
        else:
            for part in found:
                yield part

    async def thread(self, **wishes: Any) -> str:
        """The id of a new thread."""
        thread_id: str = (await self("threads.create", **wishes))["thread_id"]
        return thread_id

    async def told(self, text: str, graph: str = BRISK, **wishes: Any) -> tuple[str, dict[str, Any]]:
        """The id of a thread on which `text` was said, and its values."""
        thread_id = await self.thread(**wishes)
        return thread_id, await self("runs.wait", thread_id, graph, input=says(text))


@asynccontextmanager
async def connected(kind: str, url: str, key: str) -> AsyncIterator[Sdk]:
    if kind == "sync":
        with get_sync_client(url=url, api_key=key) as blocking:
            yield Sdk(blocking)
    else:
        async with get_client(url=url, api_key=key) as client:
            yield Sdk(client)


@pytest.fixture(params=["async", "sync"])
async def sdk(request: pytest.FixtureRequest, served: Member, key: str) -> AsyncIterator[Sdk]:
    async with connected(request.param, served.url, key) as found:
        yield found


def says(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def texts(values: Any) -> list[str]:
    return [message["content"] for message in values["messages"]]


async def asked(sdk: Sdk) -> tuple[str, str]:
    """Ids of a thread that asks for the refund of order 7, and of its question."""
    thread_id, values = await sdk.told("refund order 7")
    return thread_id, values["__interrupt__"][0]["id"]


# --- nothing is left out


async def test_every_method_of_the_sdk_is_called_in_this_file(sdk: Sdk) -> None:
    """A method that a new release of the SDK brings is reported here until a test calls it."""
    methods = {
        f"{resource}.{name}"
        for resource in RESOURCES
        for name, _ in inspect.getmembers(type(getattr(sdk.client, resource)), inspect.isfunction)
        if not name.startswith("_")
    }
    called = set(re.findall(r'sdk(?:\.each)?\(\s*"([a-z]+\.[a-z_]+)"', SOURCE))
    by_hand = {"threads.stream"}  # the thread stream differs between the two clients

    assert methods - called - by_hand == set()
    assert {*vars(sdk.client)} - {"http"} == set(RESOURCES)


# --- threads


async def test_a_thread_is_made_read_changed_and_removed(sdk: Sdk) -> None:
    """With an id of the caller's; what is merged is merged, and what is removed is gone."""
    thread_id = some_id()
    made = await sdk("threads.create", thread_id=thread_id, metadata={"ticket": 7}, graph_id=GRAPH)
    again = await sdk("threads.create", thread_id=thread_id, if_exists="do_nothing")
    changed = await sdk("threads.update", thread_id, metadata={"seen": True})
    minimal = await sdk("threads.update", thread_id, metadata={"seen": False}, return_minimal=True)
    found = await sdk("threads.get", thread_id)
    removed = await sdk("threads.delete", thread_id)

    assert (made["thread_id"], made["status"]) == (thread_id, "idle")
    assert again == made
    assert made["metadata"] == {"ticket": 7, "graph_id": GRAPH}
    assert changed["metadata"] == {**made["metadata"], "seen": True}
    assert found["metadata"]["seen"] is False
    assert (minimal, removed) == (None, None)
    with pytest.raises(NotFoundError, match="there is no thread"):
        await sdk("threads.get", thread_id)


async def test_a_thread_may_have_a_time_to_live(sdk: Sdk) -> None:
    """In minutes, as a number or with a strategy; it is shown to who asks for it."""
    thread_id = await sdk.thread(ttl=60)
    shown = (await sdk("threads.get", thread_id, include=["ttl"]))["ttl"]
    await sdk("threads.update", thread_id, metadata={}, ttl={"ttl": 90, "strategy": "delete"})
    longer = (await sdk("threads.get", thread_id, include=["ttl"]))["ttl"]

    assert (shown["strategy"], shown["ttl_minutes"]) == ("delete", 60)
    assert (longer["ttl_minutes"], longer["expires_at"] > shown["expires_at"]) == (90, True)
    assert (await sdk("threads.get", thread_id)).get("ttl") is None


async def test_threads_are_found_counted_and_paged(sdk: Sdk) -> None:
    """By metadata, values, status and id; sorted, in part, and with what is deep inside under a short name."""
    mark = some_id()
    first, _ = await sdk.told("one", metadata={"mark": mark, "of": {"desk": "a"}})
    second, _ = await sdk.told("refund order 7", metadata={"mark": mark})
    third = await sdk.thread(metadata={"mark": mark})

    newest = await sdk("threads.search", metadata={"mark": mark}, sort_by="created_at", sort_order="desc")
    page = await sdk("threads.search", metadata={"mark": mark}, sort_by="created_at", sort_order="asc", limit=1, offset=1)
    asking = await sdk("threads.search", metadata={"mark": mark}, status="interrupted")
    by_id = await sdk("threads.search", ids=[third, first], select=["thread_id"])
    by_values = await sdk("threads.search", metadata={"mark": mark}, values={"notes": ["one"]})
    deep = await sdk("threads.search", ids=[first], extract={"desk": "metadata.of.desk"})

    assert [thread["thread_id"] for thread in newest] == [third, second, first]
    assert [thread["thread_id"] for thread in page] == [second]
    assert [(thread["thread_id"], len(thread["interrupts"])) for thread in asking] == [(second, 1)]
    assert sorted(by_id, key=str) == sorted([{"thread_id": first}, {"thread_id": third}], key=str)
    assert [thread["thread_id"] for thread in by_values] == [first]
    assert deep[0]["extracted"] == {"desk": "a"}
    assert await sdk("threads.count", metadata={"mark": mark}) == 3
    assert await sdk("threads.count", metadata={"mark": mark}, status="interrupted") == 1


async def test_a_copy_goes_its_own_way(sdk: Sdk) -> None:
    """State and history are there, and what is said to one is not said to the other."""
    thread_id, _ = await sdk.told("one")
    copy = (await sdk("threads.copy", thread_id))["thread_id"]
    values = await sdk("runs.wait", copy, BRISK, input=says("two"))

    assert copy != thread_id
    assert texts(values) == ["one", "one", "two", "two"]
    assert texts((await sdk("threads.get", thread_id))["values"]) == ["one", "one"]


async def test_many_threads_are_pruned(sdk: Sdk) -> None:
    """Either their older states, or all of them."""
    (first, _), (second, _) = await sdk.told("one"), await sdk.told("two")

    kept = await sdk("threads.prune", [first], strategy="keep_latest")
    history = await sdk("threads.get_history", first)
    gone = await sdk("threads.prune", [first, second])

    assert (kept, gone) == ({"pruned_count": 1}, {"pruned_count": 2})
    assert (len(history), texts(history[0]["values"])) == (1, ["one", "one"])
    with pytest.raises(NotFoundError):
        await sdk("threads.get", second)


# --- states


async def test_every_state_can_be_read_and_gone_back_to(sdk: Sdk) -> None:
    """The latest, one by its checkpoint, the history in pages; a fork begins where it is told."""
    thread_id, values = await sdk.told("one")
    await sdk("runs.wait", thread_id, BRISK, input=says("two"))

    state = await sdk("threads.get_state", thread_id)
    history = await sdk("threads.get_history", thread_id, limit=50)
    older = await sdk("threads.get_history", thread_id, limit=50, before=history[2]["checkpoint"])
    by_id = await sdk("threads.get_history", thread_id, limit=1, before=history[2]["checkpoint"]["checkpoint_id"])
    loops = await sdk("threads.get_history", thread_id, limit=50, metadata={"source": "loop"})
    one = next(state for state in history if state["values"] == values)
    at = await sdk("threads.get_state", thread_id, one["checkpoint"])
    at_id = await sdk("threads.get_state", thread_id, checkpoint_id=one["checkpoint"]["checkpoint_id"])
    forked = await sdk("runs.wait", thread_id, BRISK, input=says("other"), checkpoint=one["checkpoint"])

    assert state["checkpoint"] == history[0]["checkpoint"]
    assert texts(state["values"]) == ["one", "one", "two", "two"]
    assert older == history[3:]
    assert by_id == older[:1]
    assert loops == [state for state in history if state["metadata"]["source"] == "loop"]
    assert at["values"] == at_id["values"] == values
    assert texts(forked) == ["one", "one", "other", "other"]


async def test_a_state_is_written_by_hand(sdk: Sdk) -> None:
    """As a node, on the latest or an older one; the next run goes on from it."""
    thread_id, _ = await sdk.told("one")
    (before,) = await sdk("threads.get_history", thread_id, limit=1)

    written = await sdk("threads.update_state", thread_id, says("by hand"), as_node="echo")
    on_older = await sdk("threads.update_state", thread_id, says("fork"), as_node="echo", checkpoint=before["checkpoint"])
    state = await sdk("threads.get_state", thread_id)

    assert written["checkpoint"]["thread_id"] == thread_id
    assert state["checkpoint"] == on_older["checkpoint"]
    assert texts(state["values"]) == ["one", "one", "fork"]
    assert texts((await sdk("threads.get_state", thread_id, written["checkpoint"]))["values"]) == ["one", "one", "by hand"]


async def test_the_states_of_subgraphs_are_shown(sdk: Sdk) -> None:
    """While the graph stands still before or after a subgraph it is named, and shown to who asks for it."""
    thread_id = await sdk.thread()
    await sdk("runs.wait", thread_id, BRISK, input=says("one"), interrupt_before=["look_up"])

    plain = await sdk("threads.get_state", thread_id)
    deep = await sdk("threads.get_state", thread_id, subgraphs=True)

    assert (plain["next"], deep["next"]) == (["look_up"], ["look_up"])
    assert [task["name"] for task in deep["tasks"]] == ["look_up"]


# --- runs


async def test_a_run_is_waited_for_joined_read_listed_and_removed(sdk: Sdk) -> None:
    """In the background and at once, with everything that the SDK can say about it."""
    thread_id, created = await sdk.thread(), []
    run = await sdk(
        "runs.create",
        thread_id,
        BRISK,
        input=says("one"),
        metadata={"from": "test"},
        config={"tags": ["a"], "recursion_limit": 20, "configurable": {"model_name": "x"}},
        stream_mode=["values", "updates"],
        stream_resumable=True,
        multitask_strategy="enqueue",
        durability="sync",
        on_run_created=created.append,
    )
    values = await sdk("runs.join", thread_id, run["run_id"])
    waited = await sdk("runs.wait", thread_id, BRISK, input=says("two"), on_run_created=created.append)
    done = await sdk("runs.get", thread_id, run["run_id"])
    listed = await sdk("runs.list", thread_id, limit=10)
    page = await sdk("runs.list", thread_id, limit=1, offset=1, status="success")
    await sdk("runs.delete", thread_id, run["run_id"])

    assert (texts(values), texts(waited)) == (["one", "one"], ["one", "one", "two", "two"])
    assert run["status"] in ("pending", "running")
    assert (done["status"], done["metadata"]["from"]) == ("success", "test")
    assert [made["thread_id"] for made in created] == [thread_id] * 2
    assert [found["run_id"] for found in listed] == [created[1]["run_id"], created[0]["run_id"]]
    assert page == listed[1:]
    with pytest.raises(NotFoundError):
        await sdk("runs.get", thread_id, run["run_id"])


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_run_is_streamed_in_every_mode_and_with_its_subgraphs(sdk: Sdk, version: str) -> None:
    """In both shapes of the SDK; the subgraph's events carry its name."""
    modes = ["values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug"]
    thread_id = await sdk.thread()
    parts = [
        part
        async for part in sdk.each(
            "runs.stream", thread_id, BRISK, input=says("one two"), stream_mode=modes, stream_subgraphs=True, version=version
        )
    ]

    if version == "v1":
        names = {part.event for part in parts}
        spoken = "".join(part.data[0]["content"] for part in parts if part.event == "messages")
        (noted,) = [part.data for part in parts if part.event.startswith("custom|look_up:")]
    else:
        names = {part["type"] + ("|" if part["ns"] else "") for part in parts}
        spoken = "".join(part["data"][0]["content"] for part in parts if part["type"] == "messages")
        (noted,) = [part["data"] for part in parts if part["type"] == "custom"]
    assert {name.partition("|")[0] for name in names} - {"end"} == {
        *("metadata", "values", "updates", "messages", "custom", "tasks", "checkpoints", "debug")
    }
    assert {name.partition("|")[0] for name in names if "|" in name} >= {"values", "updates", "custom", "tasks"}
    assert spoken == "one two"
    assert noted == {"looked_up": "one two"}


async def test_messages_accumulate_in_the_older_mode(sdk: Sdk) -> None:
    """Metadata once, then the text as far as it is known."""
    parts = [part async for part in sdk.each("runs.stream", await sdk.thread(), BRISK, input=says("one two"), stream_mode="messages")]

    partial = [part.data[0]["content"] for part in parts if part.event == "messages/partial"]
    assert next(part.event for part in parts if part.event.startswith("messages/")) == "messages/metadata"
    assert partial[-1] == "one two"
    assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(partial))


async def test_everything_that_runs_is_told_in_mode_events(sdk: Sdk) -> None:
    """LangChain's events of the graph and its models; the tokens are in them."""
    parts = [part async for part in sdk.each("runs.stream", await sdk.thread(), BRISK, input=says("one two"), stream_mode="events")]

    told = [part.data for part in parts if part.event == "events"]
    tokens = [event["data"]["chunk"]["content"] for event in told if event["event"] == "on_chat_model_stream"]
    assert (told[0]["event"], told[-1]["event"]) == ("on_chain_start", "on_chain_end")
    assert "".join(tokens) == "one two"


async def test_a_context_is_checked_and_handed_to_the_graph(sdk: Sdk) -> None:
    """What the graph has no room for is refused; so is a context beside `configurable`."""
    thread_id = await sdk.thread()
    calm = await sdk("runs.wait", thread_id, MOODY, input=says("how are you?"), context={"mood": "calm", "strength": 2})
    parts = [part async for part in sdk.each("runs.stream", None, MOODY, input=says("and you?"), context={"mood": "glad"})]

    assert texts(calm)[-1] == "very calm"
    assert texts(parts[-2].data)[-1] == "glad"
    with pytest.raises(UnprocessableEntityError, match=r"context\.mood") as wrong:
        await sdk("runs.create", thread_id, MOODY, input=says("how are you?"), context={"strength": 2})
    with pytest.raises(BadRequestError):
        await sdk("runs.create", None, MOODY, input=says("x"), context={"mood": "calm"}, config={"configurable": {"mood": "glad"}})
    assert wrong.value.code == "invalid_context"


async def test_only_what_is_selected_is_answered(sdk: Sdk) -> None:
    """In lists of threads, runs, assistants and crons; a field that there is not is refused."""
    mark = some_id()
    thread_id, _ = await sdk.told("one", metadata={"mark": mark})
    cron = await sdk("crons.create_for_thread", thread_id, BRISK, schedule="0 3 * * *", input=says("one"))

    threads = await sdk("threads.search", metadata={"mark": mark}, select=["thread_id", "status"])
    runs = await sdk("runs.list", thread_id, select=["run_id", "status"])
    assistants = await sdk("assistants.search", graph_id=BRISK, metadata=SYSTEM, select=["assistant_id", "name"])
    crons = await sdk("crons.search", thread_id=thread_id, select=["cron_id", "schedule"])
    await sdk("crons.delete", cron["cron_id"])

    assert threads == [{"thread_id": thread_id, "status": "idle"}]
    assert [(run.keys(), run["status"]) for run in runs] == [({"run_id", "status"}, "success")]
    assert [(found.keys(), found["name"]) for found in assistants] == [({"assistant_id", "name"}, BRISK)]
    assert crons == [{"cron_id": cron["cron_id"], "schedule": "0 3 * * *"}]
    with pytest.raises(UnprocessableEntityError):
        await sdk("runs.list", thread_id, select=["secrets"])


async def test_a_webhook_is_told_of_the_end_of_a_run(sdk: Sdk, receiver: WebhookReceiver) -> None:
    """However the run was begun; an address that is not allowed is refused before anything is accepted."""
    thread_id, created = await sdk.thread(), []
    wishes: Any = {"input": says("one"), "webhook": receiver.url, "on_run_created": created.append}
    await sdk("runs.create", thread_id, BRISK, **wishes)
    await sdk("runs.wait", thread_id, BRISK, **wishes)
    _ = [part async for part in sdk.each("runs.stream", thread_id, BRISK, **wishes)]
    wanted = {run["run_id"] for run in created}

    told = await asyncio.to_thread(receiver.wait_for_runs, wanted)

    assert {(request["run_id"], request["thread_id"], request["status"]) for request in told} == {
        (run_id, thread_id, "success") for run_id in wanted
    }
    assert len(wanted) == 3
    with pytest.raises(UnprocessableEntityError, match="webhook"):
        await sdk("runs.create", thread_id, BRISK, input=says("one"), webhook="http://127.0.0.1:1/hook")
    assert len(await sdk("runs.list", thread_id)) == 3


async def test_a_stream_is_left_and_joined_again(sdk: Sdk) -> None:
    """From the beginning, from an event on, and in one mode; what is joined is what was streamed."""
    thread_id, created, parts = await sdk.thread(), [], []
    wishes: Any = {"stream_mode": ["values", "updates"], "stream_resumable": True, "on_disconnect": "continue"}
    async for part in sdk.each("runs.stream", thread_id, BRISK, input=says("one"), on_run_created=created.append, **wishes):
        parts.append(part)
    run_id = created[0]["run_id"]

    again = [part async for part in sdk.each("runs.join_stream", thread_id, run_id, last_event_id="-1")]
    rest = [part async for part in sdk.each("runs.join_stream", thread_id, run_id, last_event_id=parts[2].id)]
    updates = [part async for part in sdk.each("runs.join_stream", thread_id, run_id, last_event_id="-1", stream_mode=["updates"])]

    assert again == parts
    assert rest == parts[3:]
    assert {part.event for part in updates} == {"metadata", "updates", "end"}


async def test_the_runs_of_a_thread_are_followed_in_one_stream(sdk: Sdk) -> None:
    """From the first event on; who has seen enough leaves."""
    thread_id, _ = await sdk.told("one")
    await sdk("runs.wait", thread_id, BRISK, input=says("two"), metadata={})
    ends = 0
    async for part in sdk.each("threads.join_stream", thread_id, last_event_id="-1", stream_mode=["run_modes"]):
        ends += part.event == "metadata" and part.data.get("status") == "run_done"
        if ends == 2:
            break
    assert ends == 2


async def test_runs_are_cancelled_one_by_one_and_together(sdk: Sdk) -> None:
    """What hangs ends, what waits never begins, and the thread is idle afterwards."""
    thread_id = await sdk.thread()
    hanging = await sdk("runs.create", thread_id, STICKY, input=says("hang"))
    waiting = await sdk("runs.create", thread_id, BRISK, input=says("later"))
    with pytest.raises(ConflictError):
        await sdk("runs.create", thread_id, BRISK, input=says("no"), multitask_strategy="reject")

    await sdk("runs.cancel", thread_id, waiting["run_id"])
    await sdk("runs.cancel", thread_id, hanging["run_id"], wait=True, action="interrupt")
    statuses = {run["run_id"]: run["status"] for run in await sdk("runs.list", thread_id)}
    more = [await sdk("runs.create", thread_id, STICKY, input=says("hang")) for _ in range(2)]
    await sdk("runs.cancel_many", thread_id=thread_id, run_ids=[run["run_id"] for run in more], action="rollback")

    assert statuses == {hanging["run_id"]: "interrupted", waiting["run_id"]: "interrupted"}
    assert texts(await sdk("runs.wait", thread_id, BRISK, input=says("now")))[-1] == "now"
    assert {run["run_id"] for run in await sdk("runs.list", thread_id)} & {run["run_id"] for run in more} == set()


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_a_second_run_takes_the_place_of_the_first(sdk: Sdk, strategy: str) -> None:
    """The first one is interrupted, or it has never been."""
    thread_id = await sdk.thread()
    first = await sdk("runs.create", thread_id, STICKY, input=says("hang"))
    values = await sdk("runs.wait", thread_id, BRISK, input=says("mine"), multitask_strategy=strategy)

    assert texts(values)[-1] == "mine"
    if strategy == "interrupt":
        assert (await sdk("runs.get", thread_id, first["run_id"]))["status"] == "interrupted"
    else:
        assert "hang" not in texts(values)
        with pytest.raises(NotFoundError):
            await sdk("runs.get", thread_id, first["run_id"])


async def test_a_run_needs_no_thread(sdk: Sdk) -> None:
    """Waited for, streamed, in the background; and on a thread that is made for it."""
    waited = await sdk("runs.wait", None, BRISK, input=says("one"))
    streamed = [part async for part in sdk.each("runs.stream", None, BRISK, input=says("two"), stream_mode="values")]
    kept = await sdk("runs.create", None, BRISK, input=says("three"), on_completion="keep")
    made = some_id()
    values = await sdk("runs.wait", made, BRISK, input=says("four"), if_not_exists="create")

    assert texts(waited) == ["one", "one"]
    assert texts(streamed[-2].data) == ["two", "two"]
    assert texts(await sdk("runs.join", kept["thread_id"], kept["run_id"])) == ["three", "three"]
    assert texts(values) == texts((await sdk("threads.get", made))["values"]) == ["four", "four"]


async def test_runs_are_made_in_a_batch(sdk: Sdk) -> None:
    """Each on a thread of its own."""
    payloads: Any = [{"assistant_id": BRISK, "input": says(text), "on_completion": "keep"} for text in ("one", "two")]
    runs = await sdk("runs.create_batch", payloads)

    assert [texts(await sdk("runs.join", run["thread_id"], run["run_id"]))[-1] for run in runs] == ["one", "two"]


async def test_a_run_that_fails_raises_what_happened(sdk: Sdk) -> None:
    """Waiting raises; with `raise_error=False` the error is the answer; a stream ends with it."""
    with pytest.raises(Exception, match="InternalError: the run failed"):
        await sdk("runs.wait", await sdk.thread(), BRISK, input=says("boom"))
    quiet = await sdk("runs.wait", await sdk.thread(), BRISK, input=says("boom"), raise_error=False)
    thread_id = await sdk.thread()
    parts = [part async for part in sdk.each("runs.stream", thread_id, BRISK, input=says("boom"))]

    assert set(quiet["__error__"]) >= {"error", "message"}
    assert parts[-1].event == "error"
    assert (await sdk("threads.get", thread_id))["status"] == "error"


# --- interrupts


@pytest.mark.parametrize("form", ["value", "id"])
async def test_a_question_is_answered(sdk: Sdk, form: str) -> None:
    """By value or by id; `strict_resume` is tolerated."""
    thread_id, question = await asked(sdk)
    state = await sdk("threads.get_state", thread_id)
    answer: Any = "yes" if form == "value" else {question: "yes"}
    values = await sdk("runs.wait", thread_id, BRISK, command={"resume": answer}, strict_resume=True)

    assert state["next"] == ["refund"]
    assert [found["id"] for task in state["tasks"] for found in task["interrupts"]] == [question]
    assert texts(values) == ["refund order 7", "order 7: yes"]
    assert (await sdk("threads.get", thread_id))["interrupts"] == {}


async def test_two_questions_are_answered_at_once(sdk: Sdk) -> None:
    """One run, a map of ids to answers."""
    thread_id, values = await sdk.told("go", ASKING)
    answers = {question["id"]: question["value"]["question"] for question in values["__interrupt__"]}
    done = await sdk("runs.wait", thread_id, ASKING, command={"resume": answers})

    assert texts(done) == ["go", "begun", "left: left", "right: right", "finished"]


async def test_a_run_stops_where_it_is_told_and_jumps_where_it_is_told(sdk: Sdk) -> None:
    """`interrupt_before`, `interrupt_after`, continuing without input, and `goto` with an update."""
    thread_id = await sdk.thread()
    await sdk("runs.wait", thread_id, BRISK, input=says("one"), interrupt_before=["echo"])
    before = await sdk("threads.get_state", thread_id)
    values = await sdk("runs.wait", thread_id, BRISK, input=None)
    jumped = await sdk("runs.wait", thread_id, BRISK, command={"update": says("two"), "goto": "echo"}, interrupt_after="*")

    assert before["next"] == ["echo"]
    assert texts(values) == ["one", "one"]
    assert texts(jumped) == ["one", "one", "two", "two"]


# --- errors


async def test_what_is_wrong_is_said_in_the_sdks_own_errors(sdk: Sdk, served: Member) -> None:
    """One class per status, with our sentence and our code."""
    thread_id = await sdk.thread()
    with pytest.raises(ConflictError, match="if_exists=do_nothing") as exists:
        await sdk("threads.create", thread_id=thread_id)
    with pytest.raises(UnprocessableEntityError, match="there is no assistant 'nobody'"):
        await sdk("runs.create", thread_id, "nobody", input=says("one"))
    with pytest.raises(NotFoundError):
        await sdk("runs.create", thread_id, some_id(), input=says("one"))
    with pytest.raises(NotFoundError):
        await sdk("runs.create", some_id(), BRISK, input=says("one"))
    with pytest.raises(NotFoundError):
        await sdk("runs.cancel", thread_id, some_id())
    with pytest.raises(BadRequestError):
        await sdk("runs.create", None, BRISK, command={"resume": "yes"})
    with pytest.raises(UnprocessableEntityError):
        await sdk("threads.get", "no-uuid")
    assert exists.value.code == "thread_exists"
    assert exists.value.request_id


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_wrong_key_is_the_sdks_authentication_error(served: Member, kind: str) -> None:
    """Also where a stream was asked for."""
    async with connected(kind, served.url, "guess") as sdk:
        with pytest.raises(AuthenticationError):
            await sdk("threads.create")
        with pytest.raises(AuthenticationError):
            _ = [part async for part in sdk.each("runs.stream", None, BRISK, input=says("one"))]


# --- assistants


async def test_assistants_are_found(sdk: Sdk) -> None:
    """By graph; a run takes the name of a graph or the id of an assistant."""
    (assistant,) = await sdk("assistants.search", graph_id=BRISK, metadata=SYSTEM)
    paged = await sdk("assistants.search", limit=1, response_format="object")
    values = await sdk("runs.wait", None, assistant["assistant_id"], input=says("one"))

    assert (assistant["name"], assistant["metadata"]["created_by"]) == (BRISK, "system")
    assert (len(paged["assistants"]), paged["next"]) == (1, "1")
    assert texts(values) == ["one", "one"]


async def test_a_graph_is_drawn_and_described(sdk: Sdk) -> None:
    """Nodes and edges, with what is inside of nodes for who looks deeper; the schemas of state, input and context."""
    (assistant,) = await sdk("assistants.search", graph_id=BRISK, metadata=SYSTEM)
    assistant_id = assistant["assistant_id"]

    found = await sdk("assistants.get", assistant_id)
    flat, deep = [await sdk("assistants.get_graph", assistant_id, xray=xray) for xray in (False, True)]
    schemas = await sdk("assistants.get_schemas", assistant_id)
    subgraphs = await sdk("assistants.get_subgraphs", assistant_id, recurse=True)
    one = await sdk("assistants.get_subgraphs", assistant_id, "look_up")

    assert found == assistant
    assert {"__start__", "look_up", "echo"} <= {node["id"] for node in flat["nodes"]}
    assert {"source": "echo", "target": "__end__"}.items() <= next(edge for edge in flat["edges"] if edge["source"] == "echo").items()
    assert "look_up:note" in {node["id"] for node in deep["nodes"]}
    assert schemas["graph_id"] == BRISK
    assert "messages" in schemas["state_schema"]["properties"]
    assert ({*subgraphs}, {*one}) == ({"look_up", "team"}, {"look_up"})


async def test_an_assistant_is_made_changed_gone_back_with_and_removed(sdk: Sdk) -> None:
    """Every change is a version, and any version may be the one that is used."""
    name = f"mine-{uuid4()}"
    made = await sdk("assistants.create", BRISK, name=name, metadata={"mark": name}, description="one", if_exists="raise")
    assistant_id = made["assistant_id"]
    changed = await sdk("assistants.update", assistant_id, metadata={"mark": name, "two": True}, description="two")
    versions = await sdk("assistants.get_versions", assistant_id)
    back = await sdk("assistants.set_latest", assistant_id, 1)
    values = await sdk("runs.wait", None, assistant_id, input=says("one"))

    assert (made["version"], changed["version"], back["version"]) == (1, 2, 1)
    assert [version["version"] for version in versions] == [2, 1]
    assert (changed["description"], back["description"]) == ("two", "one")
    assert texts(values) == ["one", "one"]
    assert await sdk("assistants.count", graph_id=BRISK, metadata={"mark": name}) == 1
    with pytest.raises(ConflictError):
        await sdk("assistants.create", BRISK, assistant_id=assistant_id)
    await sdk("assistants.delete", assistant_id)
    with pytest.raises(NotFoundError):
        await sdk("assistants.get", assistant_id)


# --- store


async def test_items_are_kept_found_and_removed(sdk: Sdk) -> None:
    """Under a namespace and a key; what is not there is null, and removing it again is no error."""
    namespace = ("memories", some_id())
    for key, age in (("a", 1), ("b", 2), ("c", 3)):
        await sdk("store.put_item", namespace, key, {"age": age, "kind": "even" if age == 2 else "odd"})
    await sdk("store.put_item", namespace, "short", {"kind": "brief"}, ttl=60, index=False)

    item = await sdk("store.get_item", namespace, "b", refresh_ttl=True)
    missing = await sdk("store.get_item", namespace, "z")
    odd = await sdk("store.search_items", namespace, filter={"kind": "odd"}, limit=10)
    older = await sdk("store.search_items", namespace[:1], filter={"age": {"$gte": 2}}, limit=10, offset=0)
    spaces = await sdk("store.list_namespaces", prefix=["memories"], max_depth=2)
    await sdk("store.delete_item", namespace, "b")
    await sdk("store.delete_item", namespace, "b")

    assert (item["namespace"], item["key"], item["value"]) == (list(namespace), "b", {"age": 2, "kind": "even"})
    assert missing is None
    assert sorted(found["key"] for found in odd["items"]) == ["a", "c"]
    assert {"b", "c"} <= {found["key"] for found in older["items"]}
    assert list(namespace) in spaces["namespaces"]
    assert await sdk("store.get_item", namespace, "b") is None


# --- crons


async def test_crons_are_made_found_changed_and_removed(sdk: Sdk) -> None:
    """On a thread and without one."""
    thread_id, mark = await sdk.thread(), some_id()
    loose = await sdk("crons.create", BRISK, schedule="0 3 * * *", input=says("one"), metadata={"mark": mark}, timezone="Europe/Madrid")
    bound = await sdk("crons.create_for_thread", thread_id, BRISK, schedule="*/5 * * * *", input=says("two"), metadata={"mark": mark})
    found = await sdk("crons.search", metadata={"mark": mark}, limit=10, sort_by="created_at", sort_order="asc")
    of_thread = await sdk("crons.search", thread_id=thread_id)
    counted = await sdk("crons.count", metadata={"mark": mark})
    changed = await sdk("crons.update", loose["cron_id"], schedule="0 4 * * *", enabled=False)
    for cron in (loose, bound):
        await sdk("crons.delete", cron["cron_id"])

    assert [cron["cron_id"] for cron in found] == [loose["cron_id"], bound["cron_id"]]
    assert [cron["cron_id"] for cron in of_thread] == [bound["cron_id"]]
    assert counted == 2
    assert (changed["schedule"], changed["enabled"]) == ("0 4 * * *", False)
    assert await sdk("crons.search", metadata={"mark": mark}) == []


# --- the second protocol: one stream for a thread


async def test_a_thread_stream_starts_a_run_and_tells_its_messages_and_its_end(served: Member, key: str) -> None:
    """`threads.stream`: the thread is made by its first run, and its state is the output."""
    async with connected("async", served.url, key) as sdk, sdk.client.threads.stream(assistant_id=BRISK) as thread:
        async with asyncio.timeout(LIMIT):
            started = await thread.run.start(input=says("one two"))
            said = [await message.text async for message in spoken(thread)]
            output = await thread.output

        assert (await sdk("runs.get", thread.thread_id, started["run_id"]))["status"] == "success"
    assert said == ["one two"]
    assert texts(output) == ["one two", "one two"]


async def spoken(thread: Any) -> AsyncIterator[Any]:
    """The messages of a thread stream until its run has ended: the loop itself moves the data, so they are read after it."""
    found = [message async for message in thread.messages]
    for message in found:
        yield message


async def test_a_thread_stream_asks_and_takes_the_answer(served: Member, key: str) -> None:
    """`run.respond` answers the one question that waits."""
    async with connected("async", served.url, key) as sdk, sdk.client.threads.stream(assistant_id=BRISK) as thread:
        async with asyncio.timeout(LIMIT):
            await thread.run.start(input=says("refund order 7"))
            _ = [values async for values in thread.values]  # ends when the run pauses
            asked = list(thread.interrupts)
            await thread.run.respond("yes")
            output = await thread.output

    assert [question["value"]["order"] for question in asked] == [7]
    assert texts(output) == ["refund order 7", "order 7: yes"]


async def test_a_thread_stream_tells_of_subgraphs_tools_and_custom_data(served: Member, key: str) -> None:
    """Each in a projection of its own, on the one connection."""
    invoices = {**says("¿Cuáles son mis facturas?"), "customer": {"id": "C-1001"}}
    async with connected("async", served.url, key) as sdk, asyncio.timeout(LIMIT):
        async with sdk.client.threads.stream(assistant_id=BRISK) as thread:
            await thread.run.start(input=says("team please"), metadata={"from": "stream"})
            subgraphs = [handle.graph_name async for handle in thread.subgraphs]
        async with sdk.client.threads.stream(thread.thread_id, assistant_id=BRISK) as thread:
            await thread.run.start(input=says("team please"))
            progress = [data async for data in thread.extensions["progress"]]
        async with sdk.client.threads.stream(assistant_id=GRAPH) as thread:
            await thread.run.start(input=invoices)
            handles = [handle async for handle in thread.tool_calls]
            calls = [(handle.name, await handle.output) for handle in handles]
            tree = await thread.agent.get_tree(xray=True)

    assert subgraphs == ["look_up", "team"]
    assert {"name": "progress", "payload": {"speaks": "team"}} in progress
    assert [(name, "INV-" in str(output)) for name, output in calls] == [("list_invoices", True)]
    assert "supervise" in {node["id"] for node in tree["nodes"]}


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_what_goes_wrong_on_a_thread_stream_is_raised(served: Member, key: str, kind: str) -> None:
    """A command that is refused, and a run that fails, with the service's words."""
    async with connected(kind, served.url, key) as sdk, asyncio.timeout(LIMIT):
        if kind == "async":
            async with sdk.client.threads.stream(assistant_id="nobody") as nobody:
                with pytest.raises(RuntimeError, match="there is no assistant 'nobody'"):
                    await nobody.run.start(input=says("one"))
            async with sdk.client.threads.stream(assistant_id=BRISK) as failing:
                await failing.run.start(input=says("boom"))
                with pytest.raises(RuntimeError, match="the run failed"):
                    await failing.output
        else:
            with sdk.client.threads.stream(assistant_id="nobody") as nobody:
                with pytest.raises(RuntimeError, match="there is no assistant 'nobody'"):
                    nobody.run.start(input=says("one"))
            with sdk.client.threads.stream(assistant_id=BRISK) as failing:
                failing.run.start(input=says("boom"))
                with pytest.raises(RuntimeError, match="the run failed"):
                    _ = failing.output


async def test_the_blocking_thread_stream_does_the_same(served: Member, key: str) -> None:
    """Messages, a question with its answer, subgraphs, and the state as output."""
    async with connected("sync", served.url, key) as sdk:
        with sdk.client.threads.stream(assistant_id=BRISK) as thread:
            thread.run.start(input=says("one two"))
            said = [str(message.text) for message in thread.messages]
            output = thread.output
        with sdk.client.threads.stream(assistant_id=BRISK) as thread:
            thread.run.start(input=says("refund order 7"))
            _ = list(thread.values)
            asked = list(thread.interrupts)
            thread.run.respond("yes")
            answered = thread.output
        with sdk.client.threads.stream(assistant_id=BRISK) as thread:
            thread.run.start(input=says("team please"))
            subgraphs = [handle.graph_name for handle in thread.subgraphs]

    assert said == ["one two"]
    assert texts(output) == ["one two", "one two"]
    assert [question["value"]["order"] for question in asked] == [7]
    assert texts(answered) == ["refund order 7", "order 7: yes"]
    assert subgraphs == ["look_up", "team"]
