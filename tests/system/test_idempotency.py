"""`Idempotency-Key`: the same key and body are the same run, whoever was asked and whatever happened in between."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.fleet import Fleet
from tests.support.protocol import TERMINAL, brisk, follow, new_thread, resumes, some_id

KINDS = ["", "/wait", "/stream"]


def submit(http: httpx.Client, path: str, key: str, body: dict[str, Any]) -> httpx.Response:
    return http.post(path, json=body, headers={"idempotency-key": key})


def run_path(response: httpx.Response) -> str:
    """The run that a request has started."""
    assert response.status_code == 200, response.text
    return response.headers["content-location"]


def prefix(http: httpx.Client, is_stateless: bool) -> str:
    return "/runs" if is_stateless else f"/threads/{new_thread(http)}/runs"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_stateless", [False, True], ids=["thread", "stateless"])
def test_the_same_request_again_is_the_same_run(one: httpx.Client, other: httpx.Client, kind: str, is_stateless: bool) -> None:
    """Through another process, after the run has ended: the same answer, and nothing has been executed twice."""
    path, key = prefix(one, is_stateless) + kind, str(uuid4())
    first = submit(one, path, key, brisk("hello"))
    one.get(f"{run_path(first)}/join").raise_for_status()

    again = submit(other, path, key, brisk("hello"))

    assert run_path(again) == run_path(first)
    if kind:
        assert again.content == first.content
    thread_id = run_path(first).split("/")[2]
    assert len(one.get(f"/threads/{thread_id}/runs").json()) == 1
    assert [message["content"] for message in one.get(f"/threads/{thread_id}").json()["values"]["messages"]] == ["hello", "hello"]


@pytest.mark.parametrize("is_stateless", [False, True], ids=["thread", "stateless"])
def test_many_at_once_are_one_run(one: httpx.Client, other: httpx.Client, is_stateless: bool) -> None:
    """Ten callers, two processes, one run; each of them gets its values."""
    path, key = f"{prefix(one, is_stateless)}/wait", str(uuid4())
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda i: submit((one, other)[i % 2], path, key, brisk("hello")), range(10)))

    (found,) = {run_path(answer) for answer in answers}
    assert [[message["content"] for message in answer.json()["messages"]] for answer in answers] == [["hello", "hello"]] * 10
    assert len(one.get(f"/threads/{found.split('/')[2]}/runs").json()) == 1


@pytest.mark.parametrize(
    "change",
    [lambda body: {**body, "metadata": {"n": 1}}, lambda body: brisk("other"), lambda body: {**body, "stream_mode": "updates"}],
    ids=["metadata", "input", "mode"],
)
def test_another_body_under_the_same_key_is_a_conflict(one: httpx.Client, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """And so is another route; nothing is accepted."""
    path, key = prefix(one, False), str(uuid4())
    submit(one, path, key, brisk("hello"))

    refused = [submit(one, path, key, change(brisk("hello"))), submit(one, f"{path}/wait", key, brisk("hello"))]

    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(409, "idempotency_key_reused")}
    assert len(one.get(path).json()) == 1


def test_an_answer_sent_twice_under_one_key_is_one_answer(one: httpx.Client, other: httpx.Client) -> None:
    """The second request is not refused as a second answer: it is the first one."""
    thread_id, key = new_thread(one), str(uuid4())
    one.post(f"/threads/{thread_id}/runs/wait", json=brisk("refund order 7")).raise_for_status()
    answers = [submit(http, f"/threads/{thread_id}/runs/wait", key, resumes("yes")) for http in (one, other)]

    assert run_path(answers[0]) == run_path(answers[1])
    assert [answer.json()["messages"][-1]["content"] for answer in answers] == ["order 7: yes"] * 2


def test_a_request_that_was_refused_may_be_sent_again(one: httpx.Client) -> None:
    """The key stands for the request, not for its refusal."""
    thread_id, key = some_id(), str(uuid4())
    refused = submit(one, f"/threads/{thread_id}/runs/wait", key, brisk("hello"))
    one.post("/threads", json={"thread_id": thread_id}).raise_for_status()

    accepted = submit(one, f"/threads/{thread_id}/runs/wait", key, brisk("hello"))

    assert (refused.status_code, refused.json()["code"]) == (404, "thread_not_found")
    assert accepted.json()["messages"][-1]["content"] == "hello"


def test_a_run_that_was_removed_does_not_come_back(one: httpx.Client) -> None:
    """Rolled back or deleted, it is not executed a second time because a request for it arrives late."""
    thread_id, key = new_thread(one), str(uuid4())
    path = f"/threads/{thread_id}/runs"
    first = submit(one, path, key, brisk("slow please"))
    one.post(f"{run_path(first)}/cancel", params={"action": "rollback", "wait": 1}).raise_for_status()

    late = submit(one, path, key, brisk("slow please"))

    assert (late.status_code, late.json()["code"]) == (409, "run_removed")
    assert one.get(path).json() == []


def test_a_key_outlives_a_crash(tmp_path: Path) -> None:
    """Killed in mid-run: the same request finds its run, which goes on and ends once."""
    fleet = Fleet(tmp_path, None, LEASE_SECONDS="1", API_KEYS="one-key:acme,other-key:globex")
    key, headers = str(uuid4()), {"x-api-key": "one-key"}
    body = brisk("slow please", stream_mode=["custom"], stream_resumable=True)
    try:
        service = fleet.gateway(EXECUTION="local")
        with httpx.Client(base_url=service.url, timeout=60, headers=headers) as http:
            path = f"/threads/{new_thread(http)}/runs"
            first = run_path(submit(http, path, key, body))
            with http.stream("GET", f"{first}/stream", headers={"last-event-id": "-1"}) as response:
                next(line for line in response.iter_lines() if '"step": 3' in line or '"step":3' in line)
            stateless = run_path(submit(http, "/runs", key + "-2", brisk("hello")))
            with httpx.Client(base_url=service.url, headers={"x-api-key": "other-key"}) as stranger:
                independent = run_path(submit(stranger, "/runs", key + "-2", brisk("something else")))
        service.kill()
        with httpx.Client(base_url=fleet.gateway(EXECUTION="local").url, timeout=60, headers=headers) as http:
            again = run_path(submit(http, path, key, body))
            values = http.get(f"{again}/join").raise_for_status().json()
            came = follow(http, f"{again}/stream", -1)
            stateless_again = run_path(submit(http, "/runs", key + "-2", brisk("hello")))
    finally:
        fleet.close()

    assert again == first
    assert stateless_again == stateless != independent
    assert [message["content"] for message in values["messages"]] == ["slow please", "slow please"]
    assert [event.name for event in came if event.name in TERMINAL] == ["end"]
