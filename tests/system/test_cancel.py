"""Runs ended from outside: what is told, what is kept, and that the thread is free at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.engine_process import STICKY
from tests.support.fleet import wait_until
from tests.support.protocol import TERMINAL, Event, brisk, events, follow, new_thread, some_id

SOON = 3.0
"""Three times the second within which a cancelled run has let go."""


def started(http: httpx.Client, thread_id: str, text: str = "slow please", **wishes: Any) -> str:
    """The path of a run in the background."""
    body = brisk(text, stream_resumable=True, **wishes)
    run = http.post(f"/threads/{thread_id}/runs", json=body).raise_for_status().json()
    return f"/threads/{thread_id}/runs/{run['run_id']}"


def under_way(http: httpx.Client, thread_id: str, **wishes: Any) -> str:
    """The path of a run that has done some steps and has many to go."""
    path = started(http, thread_id, stream_mode=["custom", "values"], **wishes)
    with http.stream("GET", f"{path}/stream", headers={"last-event-id": "-1"}) as response:
        next(event for event in events(response) if event.name == "custom" and event.data.get("step") == 2)
    return path


def cancel(http: httpx.Client, path: str, **query: Any) -> httpx.Response:
    return http.post(f"{path}/cancel", params=query)


def status(http: httpx.Client, path: str) -> str:
    return str(http.get(path).raise_for_status().json()["status"])


def terminal(came: list[Event]) -> list[tuple[str, str]]:
    return [(event.name, event.data["status"]) for event in came if event.name in TERMINAL]


@pytest.mark.parametrize("wait", [0, 1])
@pytest.mark.parametrize("action", ["interrupt", "rollback"])
def test_a_running_run_ends_and_its_thread_is_usable_at_once(one: httpx.Client, other: httpx.Client, action: str, wait: int) -> None:
    """Cancelled through another process: one terminal event, and what was written stays or is gone, as was asked."""
    thread_id = new_thread(one)
    one.post(f"/threads/{thread_id}/runs/wait", json=brisk("before")).raise_for_status()
    before = one.get(f"/threads/{thread_id}/state").json()
    path = under_way(one, thread_id)
    with one.stream("GET", f"{path}/stream", headers={"last-event-id": "-1"}) as response:
        answer = cancel(other, path, wait=wait, action=action)
        came = list(events(response))

    assert (answer.status_code, answer.content) == ((200, b"{}") if wait else (202, b""))
    assert came[-1].name == "end"
    assert terminal(came) == [("end", "interrupted")]
    if action == "interrupt":
        assert one.get(path).json()["ended_by"] == "user"
    else:
        assert one.get(path).status_code == 404
    values = one.post(f"/threads/{thread_id}/runs/wait", json=brisk("after")).raise_for_status().json()
    said = [message["content"] for message in values["messages"]]
    assert said == ["before", "before", *(["slow please"] if action == "interrupt" else []), "after", "after"]
    if action == "rollback":
        history = one.post(f"/threads/{thread_id}/history", json={"limit": 1000}).json()
        assert not [state for state in history if state["metadata"]["run_id"] == path.rpartition("/")[2]]
        assert before["checkpoint_id"] in [state["checkpoint_id"] for state in history]


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
def test_a_pending_run_ends_without_having_begun(one: httpx.Client, other: httpx.Client, action: str) -> None:
    """The one before it goes on; the pending one never writes anything."""
    thread_id = new_thread(one)
    first, second = under_way(one, thread_id), started(one, thread_id, "never")
    assert status(one, second) == "pending"

    assert cancel(other, second, wait=1, action=action).status_code == 200

    if action == "interrupt":
        assert terminal(follow(one, f"{second}/stream", -1)) == [("end", "interrupted")]
    else:
        assert one.get(second).status_code == 404
    values = one.get(f"{first}/join").json()
    assert [message["content"] for message in values["messages"]] == ["slow please", "slow please"]


def test_a_caller_who_waits_for_the_end_does_not_wait_for_the_next_run(one: httpx.Client) -> None:
    """`wait=1` returns when the cancelled run has let go, though the next one begins at that moment."""
    thread_id = new_thread(one)
    first, second = under_way(one, thread_id), started(one, thread_id)

    assert cancel(one, first, wait=1).status_code == 200

    assert status(one, second) in ("pending", "running")
    cancel(one, second, wait=1)


def test_a_run_that_has_ended_cannot_be_cancelled(one: httpx.Client) -> None:
    """404 with a code of its own; twice is not an error of another kind."""
    thread_id = new_thread(one)
    path = under_way(one, thread_id)
    assert cancel(one, path).status_code == 202

    again, unknown = cancel(one, path), cancel(one, f"/threads/{thread_id}/runs/{some_id()}")

    assert (again.status_code, again.json()["code"]) == (404, "run_ended")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "run_not_found")


def test_of_many_who_cancel_at_once_one_succeeds(one: httpx.Client, other: httpx.Client) -> None:
    """The others are told that it has ended; the stream has one terminal event."""
    path = under_way(one, new_thread(one))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: cancel((one, other)[i % 2], path, action="interrupt").status_code, range(8)))

    assert sorted(answers) == [202, *[404] * 7]
    assert terminal(follow(other, f"{path}/stream", -1)) == [("end", "interrupted")]


def test_who_joined_a_run_that_is_rolled_back_gets_an_answer(one: httpx.Client, other: httpx.Client) -> None:
    """An empty object, wherever they wait."""
    path = under_way(one, new_thread(one))
    answers: list[Any] = []
    joined = [threading.Thread(target=lambda http=http: answers.append(http.get(f"{path}/join").json())) for http in (one, other)]
    for thread in joined:
        thread.start()
    cancel(one, path, action="rollback")
    for thread in joined:
        thread.join(SOON)

    # Who came too late for the run found none.
    assert len(answers) == 2
    assert all(answer == {} or answer["code"] == "run_not_found" for answer in answers)


def test_many_runs_are_cancelled_by_id_or_by_status(one: httpx.Client, other: httpx.Client) -> None:
    """Those that have ended are passed over; a request in both forms, or in none, is malformed."""
    threads = [new_thread(one) for _ in range(3)]
    running = [under_way(one, thread_id) for thread_id in threads]
    pending = [started(one, thread_id, "never") for thread_id in threads]
    ids = [path.rpartition("/")[2] for path in (running[0], pending[0])]

    by_id = other.post("/runs/cancel", json={"thread_id": threads[0], "run_ids": ids})
    by_status = other.post("/runs/cancel", json={"status": "pending"})
    assert [status(one, path) for path in pending] == ["interrupted"] * 3
    assert [status(one, path) for path in running] == ["interrupted", "running", "running"]
    all_left = other.post("/runs/cancel", json={"status": "all"})
    nothing_left = other.post("/runs/cancel", json={"status": "all"})
    both, none = other.post("/runs/cancel", json={"status": "all", "run_ids": ids}), other.post("/runs/cancel", json={})

    assert [answer.status_code for answer in (by_id, by_status, all_left)] == [204, 204, 204]
    assert (nothing_left.status_code, nothing_left.json()["code"]) == (404, "nothing_to_cancel")
    assert [status(one, path) for path in running] == ["interrupted"] * 3
    assert (both.status_code, none.status_code) == (422, 422)


@pytest.mark.parametrize("how", ["stream", "wait"])
def test_a_caller_who_leaves_takes_the_run_along_if_that_was_asked(pair: Any, one: httpx.Client, how: str) -> None:
    """`on_disconnect: cancel`, even if the caller leaves as soon as the run has been accepted."""
    thread_id = new_thread(one)
    with httpx.Client(base_url=pair[0].url, timeout=60) as leaver:
        with leaver.stream("POST", f"/threads/{thread_id}/runs/{how}", json=brisk("slow please", on_disconnect="cancel")) as response:
            path = response.headers["content-location"]

    wait_until(lambda: status(one, path) == "interrupted", SOON)


def test_a_reader_who_leaves_takes_the_run_along_if_that_was_asked(pair: Any, one: httpx.Client) -> None:
    """`cancel_on_disconnect` of a joined stream, through a process that does not execute the run."""
    path = under_way(one, new_thread(one))
    with httpx.Client(base_url=pair[1].url, timeout=60) as leaver:
        with leaver.stream("GET", f"{path}/stream", params={"cancel_on_disconnect": "true"}, headers={"last-event-id": "-1"}) as response:
            next(events(response))

    wait_until(lambda: status(one, path) == "interrupted", SOON)


def test_a_run_that_waits_for_ever_is_stopped_in_its_superstep(one: httpx.Client, other: httpx.Client) -> None:
    """It need not reach the end of the superstep, and the thread's next run begins within a second."""
    thread_id = new_thread(one)
    path = started(one, thread_id, "hang", assistant_id=STICKY)
    wait_until(lambda: status(one, path) == "running", SOON)

    assert cancel(other, path, wait=1).status_code == 200

    after = started(one, thread_id, "hello")
    assert wait_until(lambda: status(one, after) == "success", SOON) < SOON


def test_a_run_is_forgotten_once_it_has_ended(one: httpx.Client) -> None:
    """409 before that; afterwards it is gone and the conversation stays."""
    thread_id = new_thread(one)
    path = under_way(one, thread_id)
    too_early = one.delete(path)
    cancel(one, path, wait=1)
    done = started(one, thread_id, "hello")
    one.get(f"{done}/join")

    deleted, again = one.delete(done), one.delete(done)

    assert (too_early.status_code, too_early.json()["code"]) == (409, "run_not_ended")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (again.status_code, again.json()["code"]) == (404, "run_not_found")
    assert one.get(done).status_code == 404
    assert one.get(f"/threads/{thread_id}").json()["values"]["messages"][-1]["content"] == "hello"


def test_the_runs_of_a_thread_are_listed_newest_first(one: httpx.Client) -> None:
    """By status and in pages; the pages make the whole."""
    thread_id = new_thread(one)
    done = [started(one, thread_id, f"number {i}") for i in range(3)]
    for path in done:
        one.get(f"{path}/join")
    paths = [*done, under_way(one, thread_id), started(one, thread_id)]
    newest_first = [path.rpartition("/")[2] for path in reversed(paths)]

    def listed(**query: Any) -> list[str]:
        return [run["run_id"] for run in one.get(f"/threads/{thread_id}/runs", params=query).raise_for_status().json()]

    assert listed() == newest_first
    assert listed(limit=2) + listed(limit=2, offset=2) + listed(limit=2, offset=4) == newest_first
    assert listed(status="pending") == newest_first[:1]
    assert listed(status="running") == newest_first[1:2]
    assert listed(status="success") == newest_first[2:]
    assert listed(status="success", limit=1, offset=1) == newest_first[3:4]
    assert one.get(f"/threads/{thread_id}/runs", params={"status": "odd"}).status_code == 422
    assert one.get(f"/threads/{some_id()}/runs").status_code == 404
    one.post("/runs/cancel", json={"status": "all"})
