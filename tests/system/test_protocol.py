"""The wire protocol of the LangGraph SDK, route by route and mode by mode."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.support.protocol import GRAPH, TERMINAL, Event, ask, events, follow, new_thread, says, some_id, stream
from tests.support.provider import Provider, Reply, concludes, is_routing, routes_to
from tests.support.service import Service

QUESTION, SPECIALIST, SOURCE = "Why was I charged a fee for my transfer?", "billing_support", "transfer-fees"
MODES = ["values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug"]
STATE_KEYS = {
    *("values", "next", "tasks", "metadata", "created_at", "checkpoint", "parent_checkpoint"),
    *("checkpoint_id", "parent_checkpoint_id", "interrupts"),
}


def history(http: httpx.Client, thread_id: str, **body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.post(f"/threads/{thread_id}/history", json=body).raise_for_status().json()
    return found


# --- threads


def test_a_new_thread_has_every_field(http: httpx.Client) -> None:
    """Clients read them without asking whether they are there."""
    thread = http.post("/threads", json={"metadata": {"ticket": 7}}).raise_for_status().json()

    assert UUID(thread["thread_id"])
    assert thread["metadata"] == {"ticket": 7}
    assert thread["status"] == "idle"
    assert thread["values"] is None
    assert (thread["config"], thread["interrupts"], thread["error"]) == ({}, {}, None)
    assert {"created_at", "updated_at", "state_updated_at"} <= thread.keys()
    assert http.get(f"/threads/{thread['thread_id']}").json() == thread


def test_a_thread_that_exists_is_a_conflict_or_returned_unchanged(http: httpx.Client) -> None:
    """`if_exists` decides; without it there is a 409, and nothing is changed either way."""
    thread_id = some_id()
    first = http.post("/threads", json={"thread_id": thread_id, "metadata": {"n": 1}}).json()

    refused = http.post("/threads", json={"thread_id": thread_id, "metadata": {"n": 2}})
    again = http.post("/threads", json={"thread_id": thread_id, "metadata": {"n": 2}, "if_exists": "do_nothing"})

    assert (refused.status_code, refused.json()["code"]) == (409, "thread_exists")
    assert again.status_code == 200
    assert again.json() == first


def test_a_thread_shows_its_latest_values_and_what_runs_on_it(http: httpx.Client) -> None:
    """After the first run it carries the graph's name and id, by which user interfaces list threads."""
    thread_id = new_thread(http)
    values = ask(http, QUESTION, thread_id)

    thread = http.get(f"/threads/{thread_id}").json()

    assert thread["values"] == values
    assert thread["status"] == "idle"
    assert thread["metadata"]["graph_id"] == GRAPH
    assert UUID(thread["metadata"]["assistant_id"])
    assert thread["updated_at"] > thread["created_at"]


# --- state and history


def test_a_thread_without_a_run_has_an_empty_state(http: httpx.Client) -> None:
    """It is no error to look before anything has happened."""
    thread_id = new_thread(http)

    state = http.get(f"/threads/{thread_id}/state").raise_for_status().json()

    assert state.keys() == STATE_KEYS
    assert (state["values"], state["next"], state["tasks"], state["interrupts"]) == ({}, [], [], [])
    assert state["checkpoint"] is None
    assert state["parent_checkpoint"] is None
    assert history(http, thread_id) == []


def test_the_state_after_a_run_names_its_checkpoint_and_its_run(http: httpx.Client) -> None:
    """All keys are there, and the deprecated ones say the same as the new ones."""
    thread_id = new_thread(http)
    response = http.post(f"/threads/{thread_id}/runs/wait", json=says(QUESTION))
    run_id = response.headers["content-location"].rpartition("/")[2]

    state = http.get(f"/threads/{thread_id}/state").json()

    assert state.keys() == STATE_KEYS
    assert state["values"]["answer"] == response.json()["answer"]
    assert state["next"] == []
    assert state["created_at"]
    assert state["checkpoint"] == {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": state["checkpoint_id"]}
    assert state["parent_checkpoint"]["checkpoint_id"] == state["parent_checkpoint_id"]
    expected = {"source": "loop", "run_id": run_id, "thread_id": thread_id, "graph_id": GRAPH}
    assert {**state["metadata"], **expected} == state["metadata"]
    assert state["metadata"]["step"] > 0


def test_messages_in_the_state_are_flat_and_have_ids(http: httpx.Client) -> None:
    """User interfaces merge by id and read `type` and `content` at the top."""
    messages = ask(http, QUESTION)["messages"]

    assert [message["type"] for message in messages] == ["human", "ai", "tool", "ai"]
    assert len({message["id"] for message in messages}) == 4
    for message in messages:
        assert {"content", "additional_kwargs", "response_metadata", "type", "name", "id"} <= message.keys()
    assert {"tool_calls", "invalid_tool_calls", "usage_metadata"} <= messages[1].keys()
    assert messages[2]["tool_call_id"] == messages[1]["tool_calls"][0]["id"]
    assert {"artifact", "status"} <= messages[2].keys()


def test_history_is_newest_first_and_one_state_by_default(http: httpx.Client) -> None:
    """The root is the input, and every other state follows from the one after it."""
    thread_id = new_thread(http)
    ask(http, QUESTION, thread_id)

    states = history(http, thread_id, limit=100)

    assert history(http, thread_id) == states[:1]
    assert [state["metadata"]["step"] for state in states] == sorted((state["metadata"]["step"] for state in states), reverse=True)
    assert [state["parent_checkpoint"] for state in states[:-1]] == [state["checkpoint"] for state in states[1:]]
    root = states[-1]
    assert (root["metadata"]["source"], root["metadata"]["step"], root["parent_checkpoint"]) == ("input", -1, None)


def test_history_before_takes_all_three_forms_that_clients_send(http: httpx.Client) -> None:
    """An id, a checkpoint, and a config name the same state."""
    thread_id = new_thread(http)
    ask(http, QUESTION, thread_id)
    states = history(http, thread_id, limit=100)
    checkpoint = states[1]["checkpoint"]

    forms = [checkpoint["checkpoint_id"], checkpoint, {"configurable": checkpoint}]

    assert [history(http, thread_id, limit=100, before=form) for form in forms] == [states[2:]] * 3


def test_history_is_filtered_by_metadata(http: httpx.Client) -> None:
    """Only states whose metadata hold all that is asked."""
    thread_id = new_thread(http)
    ask(http, QUESTION, thread_id)

    assert [state["metadata"]["step"] for state in history(http, thread_id, limit=9, metadata={"step": 0})] == [0]
    assert [state["metadata"]["step"] for state in history(http, thread_id, limit=9, metadata={"source": "input"})] == [-1]


# --- runs that are waited for


def test_waiting_answers_with_the_values_and_says_where_the_run_is(http: httpx.Client) -> None:
    """`Content-Location` names the run and nothing follows its id; `Location` is a path, so that clients accept it."""
    thread_id = new_thread(http)
    response = http.post(f"/threads/{thread_id}/runs/wait", json=says(QUESTION))

    assert response.headers["content-type"] == "application/json"
    path = response.headers["content-location"]
    assert path.startswith(f"/threads/{thread_id}/runs/")
    assert UUID(path.rpartition("/")[2])
    assert response.headers["location"] == f"{path}/join"
    assert response.json().keys() == {
        *("messages", "answer", "specialist", "confidence", "sources", "escalation", "degraded", "usage"),
    }


def test_a_run_can_be_read(http: httpx.Client) -> None:
    """With the caller's metadata, the graph and the assistant, and none of our internals."""
    thread_id = new_thread(http)
    response = http.post(f"/threads/{thread_id}/runs/wait", json={**says(QUESTION), "metadata": {"ticket": "T-1"}})

    run = http.get(response.headers["content-location"]).raise_for_status().json()

    assert run.keys() == {
        *("run_id", "thread_id", "assistant_id", "created_at", "updated_at", "status", "metadata", "multitask_strategy", "kwargs"),
        "ended_by",
    }
    assert (run["status"], run["kwargs"], run["multitask_strategy"]) == ("success", {}, "enqueue")
    assert run["metadata"] == {"ticket": "T-1", "graph_id": GRAPH, "assistant_id": run["assistant_id"]}


def test_fields_that_we_do_not_know_are_ignored(http: httpx.Client) -> None:
    """Clients add fields often, and put reserved names into `configurable`: neither is trusted, neither is an error."""
    body = {
        **says(QUESTION),
        "strict_resume": False,
        "langsmith_tracer": {"project_name": "x"},
        "feedback_keys": ["a"],
        "checkpoint_during": True,
        "config": {"configurable": {"thread_id": "elsewhere", "model_name": "x", "__pregel_x": 1, "langgraph_auth_user": "root"}},
        "webhook": None,
        "after_seconds": 0,
        "later_addition": {"deep": [1, 2]},
    }
    thread_id = new_thread(http)
    response = http.post(f"/threads/{thread_id}/runs/wait", json=body)

    assert response.status_code == 200
    assert response.json()["sources"] == [SOURCE]
    metadata = http.get(f"/threads/{thread_id}/state").json()["metadata"]
    assert not {"model_name", "__pregel_x", "langgraph_auth_user"} & metadata.keys()


def test_the_assistant_is_named_by_graph_or_by_id(http: httpx.Client) -> None:
    """The id is the one that the reference server derives, so bookmarks stay valid."""
    (assistant,) = http.post("/assistants/search", json={}).json()

    response = http.post("/runs/wait", json={**says(QUESTION), "assistant_id": assistant["assistant_id"]})

    assert assistant["assistant_id"] == "3dba61cc-373b-5094-96d6-8331cb40a952"
    assert response.json()["sources"] == [SOURCE]


def test_a_missing_thread_is_404_unless_it_is_to_be_made(http: httpx.Client) -> None:
    """`if_not_exists` decides."""
    thread_id = some_id()

    refused = http.post(f"/threads/{thread_id}/runs/wait", json=says(QUESTION))
    made = http.post(f"/threads/{thread_id}/runs/wait", json={**says(QUESTION), "if_not_exists": "create"})

    assert (refused.status_code, refused.json()["code"]) == (404, "thread_not_found")
    assert made.json()["sources"] == [SOURCE]
    assert http.get(f"/threads/{thread_id}").json()["status"] == "idle"


def test_a_stateless_run_has_a_thread_of_its_own(http: httpx.Client) -> None:
    """It can still be read for a while, run and events alike, and leaves no conversation behind."""
    response, came = stream(http, "/runs/stream", says(QUESTION))
    path = response.headers["content-location"]

    run = http.get(path).raise_for_status().json()

    assert run["status"] == "success"
    assert follow(http, response.headers["location"], -1) == came
    assert http.post("/runs/wait", json=says(QUESTION)).json()["sources"] == [SOURCE]


# --- streams


def test_a_stream_says_where_to_come_back_and_is_kept_by_no_proxy(http: httpx.Client) -> None:
    """The headers of the protocol."""
    thread_id = new_thread(http)
    response, came = stream(http, f"/threads/{thread_id}/runs/stream", says(QUESTION))

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    path = response.headers["content-location"]
    assert path == f"/threads/{thread_id}/runs/{came[0].data['run_id']}"
    assert response.headers["location"] == f"{path}/stream"
    assert came[0].data == {"run_id": came[0].data["run_id"], "attempt": 1}


def test_frames_are_one_event_one_line_of_json_one_id(http: httpx.Client) -> None:
    """In this order, with an empty line after each."""
    with http.stream("POST", "/runs/stream", json=says("Line one\nline two: ¿olvidé mi PIN?")) as response:
        text = response.read().decode()

    assert text.endswith("\n\n")
    for frame in text.removesuffix("\n\n").split("\n\n"):
        assert [line.partition(": ")[0] for line in frame.split("\n")] == ["event", "data", "id"]


@dataclass
class Slow:
    """A service whose model waits in mid-answer until it is let go."""

    service: Service
    provider: Provider
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def start_talking(self) -> None:
        self.may_go_on = threading.Event()
        reply = Reply("one two three four", waits_after=(2, self.may_go_on), calls=concludes("").calls)
        self.provider.behaviour = lambda request: routes_to("technical_support") if is_routing(request) else reply


@pytest.fixture(scope="module")
def slow_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    with Provider(lambda request: concludes("")).serving() as provider:
        service = Service(tmp_path_factory.mktemp("slow"), OPENAI_BASE_URL=provider.url)
        try:
            yield Slow(service.start(), provider)
        finally:
            service.close()


@pytest.fixture
def slow(slow_service: Slow) -> Iterator[Slow]:
    slow_service.start_talking()
    yield slow_service
    slow_service.may_go_on.set()


@pytest.fixture
def slow_http(slow: Slow) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=slow.service.url, timeout=60) as client:
        yield client


def until_it_speaks(came: Iterator[Event]) -> list[Event]:
    """The events up to the first word of the answer."""
    read = []
    for event in came:
        read.append(event)
        if event.name == "messages" and event.data[0]["content"]:
            return read
    raise AssertionError(f"nothing was said: {[event.name for event in read]}")


def test_a_stream_that_is_joined_again_has_the_same_bytes(http: httpx.Client) -> None:
    """After the end: -1 replays all, an id all that follows it, and without an id there is nothing more to come."""
    path = f"/threads/{new_thread(http)}/runs/stream"
    response, came = stream(http, path, {**says(QUESTION), "stream_mode": MODES})
    frames = [event.frame for event in came]
    location = response.headers["location"]

    assert [event.frame for event in follow(http, location, -1)] == frames
    for position in (0, len(came) // 2, len(came) - 2, len(came) - 1):
        assert [event.frame for event in follow(http, location, came[position].id)] == frames[position + 1 :]
    assert follow(http, location) == []


def test_a_stream_is_joined_while_it_runs(slow: Slow, slow_http: httpx.Client) -> None:
    """From the start, from an event, and from now on: what follows is the same bytes for every reader."""
    body = {**says("count"), "stream_mode": ["messages-tuple", "values"]}
    readers: dict[str, list[str]] = {}
    with slow_http.stream("POST", f"/threads/{new_thread(slow_http)}/runs/stream", json=body) as response:
        came = events(response)
        seen = until_it_speaks(came)
        location = response.headers["location"]
        is_joined = {name: threading.Event() for name in ("-1", str(seen[2].id), "")}

        def read(name: str) -> None:
            with (
                httpx.Client(base_url=slow.service.url, timeout=60) as http,
                http.stream("GET", location, headers={"last-event-id": name} if name else {}) as joined,
            ):
                is_joined[name].set()
                readers[name] = [event.frame for event in events(joined)]

        threads = [threading.Thread(target=read, args=(name,)) for name in is_joined]
        for thread in threads:
            thread.start()
        for joined in is_joined.values():
            assert joined.wait(10)
        slow.may_go_on.set()
        rest = list(came)
        for thread in threads:
            thread.join(10)

    frames = [event.frame for event in [*seen, *rest]]
    assert readers["-1"] == frames
    assert readers[str(seen[2].id)] == frames[3:]
    news = readers[""]
    assert news
    assert frames[-len(news) :] == news
    assert len(news) < len(frames)


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ({"stream_mode": "updates"}, {"updates"}),
        ({"stream_mode": ["updates", "values"]}, {"updates", "values"}),
        ({"stream_mode": '["updates","messages-tuple"]'}, {"updates", "messages"}),
        ({"stream_mode": "messages"}, {"messages/metadata", "messages/partial", "messages/complete"}),
        ({"stream_mode": "custom"}, set()),
    ],
    ids=str,
)
def test_a_joined_stream_is_filtered_by_mode(http: httpx.Client, query: dict[str, Any], kept: set[str]) -> None:
    """Repeated, as one value, or as a JSON array; `metadata` and the terminal event are always there."""
    modes = ["values", "updates", "messages-tuple", "messages"]
    response, came = stream(http, f"/threads/{new_thread(http)}/runs/stream", {**says(QUESTION), "stream_mode": modes})

    joined = follow(http, response.headers["location"], -1, **query)

    assert joined == [event for event in came if event.name in kept | TERMINAL | {"metadata"}]
    assert {event.name for event in joined} >= kept


def test_a_stream_has_only_the_modes_that_were_asked_for(http: httpx.Client) -> None:
    """`values` by default; otherwise what `stream_mode` says, as one word or as a list."""
    for modes, names in ((None, {"values"}), ("updates", {"updates"}), (["tasks", "custom"], {"tasks"})):
        body = says(QUESTION) if modes is None else {**says(QUESTION), "stream_mode": modes}
        _, came = stream(http, "/runs/stream", body)

        assert {event.name for event in came} == names | {"metadata", "end"}


@pytest.fixture(scope="module")
def every_mode(offline_service: Service) -> dict[str, list[Any]]:
    """The events of one run in all modes, by name."""
    with httpx.Client(base_url=offline_service.url, timeout=60) as http:
        _, came = stream(http, f"/threads/{new_thread(http)}/runs/stream", {**says(QUESTION), "stream_mode": MODES})
    return {name: [event.data for event in came if event.name == name] for name in {event.name for event in came}}


def test_mode_values_is_the_state_after_every_step(every_mode: dict[str, list[Any]]) -> None:
    """The first one holds the input, the last one the answer."""
    values = every_mode["values"]

    assert [message["content"] for message in values[0]["messages"]] == [QUESTION]
    assert values[-1]["answer"]
    assert all(isinstance(state["messages"], list) for state in values)


def test_mode_updates_is_what_each_node_wrote(every_mode: dict[str, list[Any]]) -> None:
    """One node per event, under its name."""
    assert [[*update] for update in every_mode["updates"]] == [["supervise"], [SPECIALIST], ["respond"]]


def test_mode_messages_tuple_is_chunk_and_metadata(every_mode: dict[str, list[Any]]) -> None:
    """Chunks say who speaks; the metadata have what user interfaces look at."""
    chunk, metadata = next(data for data in every_mode["messages"] if data[0]["content"])

    assert chunk["type"] == "AIMessageChunk"
    assert {"id", "tool_call_chunks", "chunk_position"} <= chunk.keys()
    assert metadata["langgraph_node"] == SPECIALIST
    assert {"langgraph_step", "langgraph_triggers", "langgraph_path", "langgraph_checkpoint_ns", "run_id", "thread_id"} <= metadata.keys()
    assert not [data for data in every_mode["messages"] if data[1]["langgraph_node"] == "supervise"]


def test_mode_messages_accumulates(every_mode: dict[str, list[Any]]) -> None:
    """Each message is described once, grows, and is whole in its last event; what does not stream is complete at once."""
    described = [key for data in every_mode["messages/metadata"] for key in data]
    assert len(described) == len(set(described))
    texts = [message["content"] for (message,) in every_mode["messages/partial"] if message["content"]]
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(texts))
    assert texts[-1] == every_mode["values"][-1]["answer"]
    assert {message["type"] for (message,) in every_mode["messages/partial"]} == {"ai"}
    assert {message["type"] for (message,) in every_mode["messages/complete"]} >= {"tool"}


def test_mode_tasks_has_a_start_and_an_end_for_every_node(every_mode: dict[str, list[Any]]) -> None:
    """They share an id."""
    starts = [task for task in every_mode["tasks"] if "input" in task]
    ends = [task for task in every_mode["tasks"] if "result" in task]

    assert [task["name"] for task in starts] == ["supervise", SPECIALIST, "respond"]
    assert [task["id"] for task in starts] == [task["id"] for task in ends]
    assert all({"id", "name", "input", "triggers"} <= task.keys() for task in starts)
    assert all({"id", "name", "error", "result", "interrupts"} <= task.keys() for task in ends)


def test_mode_checkpoints_is_the_history_as_it_is_written(every_mode: dict[str, list[Any]]) -> None:
    """Each one's parent is the one before."""
    found = every_mode["checkpoints"]

    assert all({"config", "metadata", "values", "next", "parent_config", "tasks"} <= checkpoint.keys() for checkpoint in found)
    ids = [checkpoint["config"]["configurable"]["checkpoint_id"] for checkpoint in found]
    parents = [(checkpoint["parent_config"] or {"configurable": {"checkpoint_id": None}})["configurable"] for checkpoint in found]
    assert [parent["checkpoint_id"] for parent in parents] == [None, *ids[:-1]]


def test_mode_debug_is_tasks_and_checkpoints_with_a_step(every_mode: dict[str, list[Any]]) -> None:
    """A checkpoint is also named the way requests name it."""
    found = every_mode["debug"]

    assert all({"step", "timestamp", "type", "payload"} <= entry.keys() for entry in found)
    assert {entry["type"] for entry in found} == {"task", "task_result", "checkpoint"}
    checkpoints = [entry["payload"] for entry in found if entry["type"] == "checkpoint"]
    assert [payload["checkpoint"]["checkpoint_id"] for payload in checkpoints] == [
        payload["config"]["configurable"]["checkpoint_id"] for payload in checkpoints
    ]
    assert [payload["parent_checkpoint"] for payload in checkpoints] == [None, *(payload["checkpoint"] for payload in checkpoints[:-1])]


# --- a thread that is busy, runs that are left


def test_a_busy_thread_takes_no_second_run_if_that_was_asked(slow: Slow, slow_http: httpx.Client) -> None:
    """409 with a time to come back; the first run goes on to its end."""
    thread_id = new_thread(slow_http)
    body = {**says("count"), "stream_mode": ["messages-tuple"]}
    with slow_http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
        came = events(response)
        until_it_speaks(came)
        refused = slow_http.post(f"/threads/{thread_id}/runs/wait", json={**says("again"), "multitask_strategy": "reject"})
        slow.may_go_on.set()
        last = list(came)[-1]

    assert (refused.status_code, refused.json()["code"]) == (409, "thread_busy")
    assert refused.headers["retry-after"] == "1"
    assert (last.name, last.data["status"]) == ("end", "success")


@pytest.mark.parametrize(("choice", "status"), [("cancel", "interrupted"), ("continue", "success")])
def test_leaving_a_stream_ends_the_run_only_if_that_was_asked(slow: Slow, slow_http: httpx.Client, choice: str, status: str) -> None:
    """`on_disconnect`: cancel ends it with status `interrupted` and one `end` event, continue leaves it alone."""
    thread_id = new_thread(slow_http)
    body = {**says("count"), "stream_mode": ["messages-tuple"], "on_disconnect": choice}
    with httpx.Client(base_url=slow.service.url, timeout=60) as leaver:
        with leaver.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
            until_it_speaks(events(response))
            path = response.headers["content-location"]
    if choice == "continue":
        slow.may_go_on.set()

    came = follow(slow_http, f"{path}/stream", -1)

    assert [event.data["status"] for event in came if event.name in TERMINAL] == [status]
    assert slow_http.get(path).json()["status"] == status
    assert slow_http.get(f"/threads/{thread_id}").json()["status"] == "idle"


def test_leaving_a_joined_stream_cancels_the_run_if_that_was_asked(slow: Slow, slow_http: httpx.Client) -> None:
    """`cancel_on_disconnect`, in the form of the JS client."""
    body = {**says("count"), "stream_mode": ["messages-tuple"]}
    with slow_http.stream("POST", f"/threads/{new_thread(slow_http)}/runs/stream", json=body) as response:
        came = events(response)
        until_it_speaks(came)
        path = response.headers["content-location"]
        with httpx.Client(base_url=slow.service.url, timeout=60) as leaver:
            with leaver.stream("GET", f"{path}/stream", params={"cancel_on_disconnect": "1"}, headers={"last-event-id": "-1"}) as joined:
                until_it_speaks(events(joined))
        last = list(came)[-1]

    assert (last.name, last.data["status"]) == ("end", "interrupted")


def test_leaving_a_waited_run_cancels_it_if_that_was_asked(slow: Slow, slow_http: httpx.Client) -> None:
    """And the connection to the provider is closed within a second: nobody pays for words that nobody reads."""
    slow.provider.reader_left.clear()
    body = {**says("count"), "stream_mode": ["messages-tuple"], "on_disconnect": "cancel"}
    with slow_http.stream("POST", f"/threads/{new_thread(slow_http)}/runs/wait", json=body) as response:
        with httpx.Client(base_url=slow.service.url, timeout=60) as follower:
            path = f"{response.headers['content-location']}/stream"
            with follower.stream("GET", path, headers={"last-event-id": "-1"}) as joined:
                came = events(joined)
                until_it_speaks(came)
                response.close()
                assert slow.provider.reader_left.wait(3.0)
                last = list(came)[-1]

    assert (last.name, last.data["status"]) == ("end", "interrupted")


def test_waiting_keeps_the_connection_alive_with_white_space(slow: Slow, slow_http: httpx.Client) -> None:
    """What comes before the values is legal JSON: a line break every five seconds."""
    body = {**says("count"), "stream_mode": ["messages-tuple"]}  # so that the provider streams, and can be held up
    with slow_http.stream("POST", f"/threads/{new_thread(slow_http)}/runs/wait", json=body) as response:
        chunks = response.iter_raw()
        first = next(chunks)
        slow.may_go_on.set()
        text = first + b"".join(chunks)

    assert first == b"\n"
    assert json.loads(text)["answer"] == "one two three four"


# --- interrupts, forks


@pytest.mark.parametrize(
    ("given", "following"),
    [
        ({"interrupt_before": [SPECIALIST]}, [SPECIALIST]),
        ({"interrupt_after": [SPECIALIST]}, ["respond"]),
        ({"interrupt_before": "*"}, ["supervise"]),
    ],
    ids=str,
)
def test_a_run_stops_where_it_is_told_and_goes_on_from_there(http: httpx.Client, given: dict[str, Any], following: list[str]) -> None:
    """The run succeeds, the thread is `interrupted` with what comes next, and a run without input continues it."""
    thread_id = new_thread(http)
    body = {**says(QUESTION), **given, "stream_mode": ["updates"]}
    _, came = stream(http, f"/threads/{thread_id}/runs/stream", body)

    assert {"__interrupt__": []} in [event.data for event in came]
    assert came[-1].data["status"] == "success"
    assert http.get(f"/threads/{thread_id}").json()["status"] == "interrupted"
    assert http.get(f"/threads/{thread_id}/state").json()["next"] == following

    values = http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": GRAPH, "input": None}).json()

    assert values["sources"] == [SOURCE]
    assert http.get(f"/threads/{thread_id}").json()["status"] == "idle"
    assert len([message for message in values["messages"] if message["type"] == "human"]) == 1


@pytest.mark.parametrize("form", ["checkpoint_id", "checkpoint"])
def test_a_run_from_an_older_checkpoint_forks_the_conversation(http: httpx.Client, form: str) -> None:
    """The new branch knows nothing of what came after; the old one can still be read."""
    thread_id = new_thread(http)
    ask(http, "Muéstrame mis facturas", thread_id, id="C-1001")
    after_first = http.get(f"/threads/{thread_id}/state").json()["checkpoint"]
    ask(http, "¿y la segunda factura?", thread_id, id="C-1001")
    before_fork = history(http, thread_id, limit=100)

    fork = {"checkpoint_id": after_first["checkpoint_id"]}
    body = {**says("¿y la tercera factura?", id="C-1001"), **(fork if form == "checkpoint_id" else {"checkpoint": fork})}
    values = http.post(f"/threads/{thread_id}/runs/wait", json=body).raise_for_status().json()

    assert values["sources"] == ["INV-2026-0305"]
    said = [message["content"] for message in values["messages"] if message["type"] == "human"]
    assert said == ["Muéstrame mis facturas", "¿y la tercera factura?"]
    after_fork = history(http, thread_id, limit=100)
    kept = {state["checkpoint_id"]: state["values"] for state in after_fork}
    assert all(kept[state["checkpoint_id"]] == state["values"] for state in before_fork)
    assert http.get(f"/threads/{thread_id}/state").json()["values"]["answer"] == values["answer"]


# --- everything else


def test_assistants_are_found_and_paged(http: httpx.Client) -> None:
    """One per graph; the header with the next offset is only there when there is more."""
    everything = http.post("/assistants/search", json={})
    nothing = http.post("/assistants/search", json={"graph_id": "other"})
    by_origin = http.post("/assistants/search", json={"metadata": {"created_by": "system"}, "limit": 1})

    (assistant,) = everything.json()
    assert {
        *("assistant_id", "graph_id", "name", "description", "config", "context", "metadata", "version", "created_at", "updated_at"),
    } == assistant.keys()
    assert nothing.json() == []
    assert by_origin.json() == [assistant]
    assert "x-pagination-next" not in everything.headers


def test_the_small_routes_answer_what_clients_probe_for(http: httpx.Client) -> None:
    """agent-chat-ui asks /info, the SDK's tools /ok, Kubernetes the other two, Prometheus /metrics."""
    assert http.get("/ok").json() == {"ok": True}
    info = http.get("/info").json()
    assert info["flags"] == {"assistants": True, "crons": True, "langsmith": False}
    assert {"version", "langgraph_py_version", "host"} <= info.keys()
    assert http.get("/health/live").json() == {"ok": True}
    assert http.get("/health/ready").json() == {"ok": True}
    ask(http, QUESTION)
    metrics = http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "capataz_runs_total" in metrics.text


def test_the_documentation_loads_nothing_from_elsewhere(http: httpx.Client) -> None:
    """It works behind a firewall and tells nobody who reads it."""
    page = http.get("/docs")

    assert page.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text


@pytest.fixture(scope="module")
def document(offline_service: Service) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{offline_service.url}/openapi.json", timeout=30).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{method} {path}", operation) for path, methods in document["paths"].items() for method, operation in methods.items()]


def test_routes_that_need_a_key_say_so(document: dict[str, Any]) -> None:
    """Health and info are open; everything else is not."""
    is_open = {where for where, operation in operations(document) if "security" not in operation}

    assert is_open == {"get /ok", "get /info", "get /health/live", "get /health/ready"}


def test_errors_below_v1_are_described_in_the_form_that_is_sent(document: dict[str, Any], http: httpx.Client) -> None:
    """OpenAI's, with the statuses that really come: what is malformed is a 400 there."""
    routes = [(where, operation["responses"]) for where, operation in operations(document) if "/v1/" in where]

    assert {"401", "503"} <= set.intersection(*(set(answers) for _, answers in routes))
    assert {"400", "404"} <= dict(routes)["post /v1/chat/completions"].keys()
    assert "404" in dict(routes)["get /v1/models/{model_id}"]
    for where, answers in routes:
        for status in (status for status in answers if status >= "400"):
            answer = document["components"]["responses"][answers[status]["$ref"].rpartition("/")[2]]
            assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/OpenAIError"), (where, status)
        assert "422" not in answers
    sent = http.post("/v1/chat/completions", json={"model": "supervisor"})
    assert sent.status_code == 400
    assert document["components"]["schemas"]["OpenAIFault"]["properties"].keys() == sent.json()["error"].keys()
