"""The stream of a thread: all its runs, one after the other, from any event on; and a run without a thread, by its id alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any, cast

import httpx
import pytest
from langgraph_sdk import get_client

from tests.support.engine_process import STICKY
from tests.support.fleet import Member
from tests.support.protocol import TERMINAL, Event, brisk, events, follow, new_thread, some_id, stream

MODES = ["values", "updates", "messages-tuple", "custom"]


class Watched:
    """A response that fails a test instead of waiting for ever for what does not come."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def iter_lines(self) -> Iterator[str]:
        beats = 0
        for line in self._response.iter_lines():
            beats = beats + 1 if line.startswith(":") else beats * (not line)
            assert beats < 5, "nothing has come for 25 s"
            yield line


@contextmanager
def following(http: httpx.Client, thread_id: str, last_event_id: str | int | None, **query: Any) -> Iterator[Iterator[Event]]:
    """A thread's stream, open, as events; it has no end of its own."""
    headers = {} if last_event_id is None else {"last-event-id": str(last_event_id)}
    with http.stream("GET", f"/threads/{thread_id}/stream", headers=headers, params=query) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["location"].startswith(f"/threads/{thread_id}/stream?stream_mode=")
        yield events(cast(httpx.Response, Watched(response)))


def thread_events(http: httpx.Client, thread_id: str, last_event_id: str | int = -1, **query: Any) -> Iterator[Event]:
    with following(http, thread_id, last_event_id, **query) as found:
        yield from found


def is_done(event: Event) -> bool:
    return event.name == "metadata" and event.data.get("status") == "run_done"


def until_done(found: Iterator[Event], runs: int = 1) -> list[Event]:
    """The events up to the word that the n-th run is done."""
    came: list[Event] = []
    for event in found:
        came.append(event)
        runs -= is_done(event)
        if runs == 0:
            return came
    raise AssertionError("the stream ended")


def run(http: httpx.Client, thread_id: str, text: str, **wishes: Any) -> list[Event]:
    body = brisk(text, stream_resumable=True, stream_mode=MODES, **wishes)
    return stream(http, f"/threads/{thread_id}/runs/stream", body)[1]


def test_a_thread_stream_is_its_runs_one_after_the_other(one: httpx.Client, other: httpx.Client) -> None:
    """Their events with their ids; instead of an end each has the word that it is done; a failure is told first."""
    thread_id = new_thread(one)
    runs = [run(one, thread_id, text) for text in ("hello", "team please", "boom")]

    came = until_done(thread_events(one, thread_id), 3)

    assert until_done(thread_events(other, thread_id), 3) == came
    shown = [event for events_of_run in runs for event in events_of_run if event.name != "end"]
    assert [event for event in came if not is_done(event)] == shown
    done = [event for event in came if is_done(event)]
    assert [event.data["run_id"] for event in done] == [events_of_run[0].data["run_id"] for events_of_run in runs]
    assert [event.id for event in done] == [events_of_run[-1].id + 1 for events_of_run in runs]
    assert [event.id for event in came] == sorted({event.id for event in came})
    assert came[-2].name == "error"


def test_a_thread_stream_resumed_after_any_event_is_the_unbroken_one(one: httpx.Client, other: httpx.Client) -> None:
    """Also right before and right after the end of a run, in both processes."""
    thread_id = new_thread(one)
    for text in ("hello", "boom", "team please"):
        run(one, thread_id, text)
    whole = until_done(thread_events(one, thread_id), 3)

    for i, event in enumerate(whole[:-1]):
        rest = thread_events((one, other)[i % 2], thread_id, event.id)
        assert [next(rest).frame for _ in whole[i + 1 :]] == [left.frame for left in whole[i + 1 :]]
        rest.close()


def test_a_thread_stream_cut_after_every_event_loses_and_repeats_nothing(one: httpx.Client, other: httpx.Client) -> None:
    """While two runs go on, one after the other; each connection lives for one event."""
    thread_id = new_thread(one)
    for text in ("slow please", "hello"):
        one.post(
            f"/threads/{thread_id}/runs", json=brisk(text, stream_resumable=True, stream_mode=["custom", "updates"])
        ).raise_for_status()
    came: list[Event] = []
    while sum(map(is_done, came)) < 2:
        found = thread_events((one, other)[len(came) % 2], thread_id, came[-1].id if came else -1)
        came.append(next(found))
        found.close()

    assert [event.frame for event in came] == [event.frame for event in until_done(thread_events(other, thread_id), 2)]


@pytest.mark.parametrize(("place", "name"), [("headers", "Last-Event-ID"), ("params", "last_event_id")])
def test_a_thread_stream_goes_on_after_the_event_that_is_named(one: httpx.Client, place: str, name: str) -> None:
    """By `Last-Event-ID`, or in the query for who cannot send a header; -1 is the beginning of what is kept."""
    thread_id = new_thread(one)
    run(one, thread_id, "hello")
    came = []
    for last_event_id in ("-1", "2"):
        options: Any = {place: {name: last_event_id}}
        with one.stream("GET", f"/threads/{thread_id}/stream", **options) as response:
            came.append(until_done(events(response)))

    whole, rest = came
    assert [event.frame for event in rest] == [event.frame for event in whole if event.id > 2]
    assert 0 < len(rest) < len(whole)


@pytest.mark.parametrize(("place", "name"), [("headers", "Last-Event-ID"), ("params", "last_event_id")])
def test_a_run_without_a_thread_goes_on_after_the_event_that_is_named(one: httpx.Client, place: str, name: str) -> None:
    """The same for a run that is known by its id alone."""
    run_id = one.post("/runs", json=brisk("hello", on_completion="keep")).raise_for_status().json()["run_id"]
    whole = follow(one, f"/threads/{run_id}/runs/{run_id}/stream", -1)

    options: Any = {place: {name: str(whole[1].id)}}
    with one.stream("GET", f"/runs/{run_id}/stream", **options) as response:
        rest = list(events(response))

    assert [event.frame for event in rest] == [event.frame for event in whole[2:]]


def test_without_an_id_a_thread_stream_has_only_what_is_yet_to_come(one: httpx.Client, other: httpx.Client) -> None:
    """It stays open between runs, wherever they execute, also one that is cancelled before it begins."""
    thread_id = new_thread(one)
    earlier = run(one, thread_id, "before")[0].data["run_id"]
    body = brisk("hang", assistant_id=STICKY, stream_mode=["values"])
    holder = one.post(f"/threads/{thread_id}/runs", json=body).json()["run_id"]
    with following(other, thread_id, None) as found:
        waiting = one.post(f"/threads/{thread_id}/runs", json=brisk("never")).json()["run_id"]
        later = one.post(f"/threads/{thread_id}/runs", json=brisk("after")).json()["run_id"]
        one.post(f"/threads/{thread_id}/runs/{waiting}/cancel")
        one.post(f"/threads/{thread_id}/runs/{holder}/cancel")
        came = until_done(found, 3)

    assert [event.data["run_id"] for event in came if is_done(event)] == [waiting, holder, later]
    assert earlier not in json.dumps([event.data for event in came])


@pytest.mark.parametrize("parameter", ["stream_mode", "stream_modes"])
def test_the_modes_of_a_thread_stream(one: httpx.Client, parameter: str) -> None:
    """`lifecycle` is the begin and end of runs, `state_update` what is written by hand; several can be asked for."""
    thread_id = new_thread(one)
    run(one, thread_id, "hello")
    written = one.post(f"/threads/{thread_id}/state", json={"values": {"messages": [{"role": "user", "content": "by hand"}]}}).json()
    run(one, thread_id, "boom")

    lifecycle = until_done(thread_events(one, thread_id, **{parameter: "lifecycle"}), 2)
    updates = next(thread_events(one, thread_id, **{parameter: "state_update"}))
    both = until_done(thread_events(one, thread_id, **{parameter: ["lifecycle", "state_update"]}), 2)
    default = until_done(thread_events(one, thread_id), 2)

    assert [event.name for event in lifecycle] == ["metadata", "metadata", "metadata", "error", "metadata"]
    assert (updates.name, updates.data["thread_id"]) == ("state_update", thread_id)
    assert updates.data["state"]["checkpoint"] == written["checkpoint"]
    assert updates.data["state"]["values"]["messages"][-1]["content"] == "by hand"
    assert both == sorted([*lifecycle, updates], key=lambda event: event.id)
    assert "state_update" not in {event.name for event in default}


def test_a_thread_stream_that_cannot_be_is_refused(one: httpx.Client) -> None:
    """No such thread, no such mode, no such id."""
    thread_id = new_thread(one)
    answers = [
        one.get(f"/threads/{some_id()}/stream"),
        one.get(f"/threads/{thread_id}/stream", params={"stream_mode": "values"}),
        one.get(f"/threads/{thread_id}/stream", headers={"last-event-id": "x"}),
    ]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (404, "thread_not_found"),
        (422, "invalid_input"),
        (422, "invalid_event_id"),
    ]


def test_a_thread_stream_ends_when_the_thread_is_deleted(one: httpx.Client, other: httpx.Client) -> None:
    """There is nothing left to wait for."""
    thread_id = new_thread(one)
    run(one, thread_id, "hello")
    streams = [thread_events(http, thread_id) for http in (one, other)]
    for found in streams:
        next(found)
    one.delete(f"/threads/{thread_id}").raise_for_status()

    assert all(len(list(found)) > 3 for found in streams)


async def test_the_sdk_joins_a_thread(pair: tuple[Member, Member]) -> None:
    """`threads.join_stream` as it is, with its own modes."""
    async with get_client(url=pair[0].url) as client:
        thread = await client.threads.create()
        _ = await client.runs.wait(thread["thread_id"], "brisk", input={"messages": [{"role": "user", "content": "hello"}]})
        parts: list[Any] = []
        joined: Any = await client.threads.join_stream(thread["thread_id"], last_event_id="-1", stream_mode=["run_modes"])
        async with aclosing(joined):
            async for part in joined:
                parts.append(part)
                if part.data.get("status") == "run_done":
                    break

    assert [part.event for part in parts] == ["metadata", "metadata"]
    assert parts[0].data["run_id"] == parts[1].data["run_id"]


def test_a_run_without_a_thread_is_found_by_its_id_alone(one: httpx.Client, other: httpx.Client) -> None:
    """`/runs/{run_id}/stream`, to the same bytes, in every process."""
    response, came = stream(one, "/runs/stream", brisk("hello", stream_mode=MODES))
    run_id = response.headers["content-location"].rpartition("/")[2]

    assert follow(other, f"/runs/{run_id}/stream", -1) == came
    assert follow(one, f"/runs/{run_id}/stream", came[2].id, stream_mode="values") == [
        event for event in came[3:] if event.name in {"values", *TERMINAL}
    ]
    assert one.get(f"/runs/{some_id()}/stream").status_code == 404


@pytest.mark.parametrize(("cancel_on_disconnect", "status"), [("1", "interrupted"), ("0", "running")])
def test_a_run_without_a_thread_may_end_with_its_reader(one: httpx.Client, cancel_on_disconnect: str, status: str) -> None:
    """If that was asked; the reader has seen it begin."""
    body = brisk("hang", assistant_id=STICKY, stream_mode=["values"], on_completion="keep")
    run_id = one.post("/runs", json=body).raise_for_status().json()["run_id"]
    path = f"/threads/{run_id}/runs/{run_id}"
    with one.stream(
        "GET", f"/runs/{run_id}/stream", params={"cancel_on_disconnect": cancel_on_disconnect}, headers={"Last-Event-ID": "-1"}
    ) as response:
        assert next(events(response)).data["run_id"] == run_id

    if status == "interrupted":
        assert follow(one, f"{path}/stream", -1)[-1].data["status"] == status
    assert one.get(path).json()["status"] == status
    one.post(f"{path}/cancel", params={"wait": True})
