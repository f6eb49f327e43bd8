"""Threads over HTTP: changed, removed, looked at as they were, and written by hand."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_sync_client

from tests.support.fleet import wait_until
from tests.support.protocol import ask, brisk, new_thread

FEE = "Why was I charged a fee for my transfer?"
UNKNOWN = str(uuid4())


def states(http: httpx.Client, thread_id: str) -> list[dict[str, Any]]:
    """All states of the thread, newest first."""
    found: list[dict[str, Any]] = http.post(f"/threads/{thread_id}/history", json={"limit": 100}).raise_for_status().json()
    return found


def texts(state: dict[str, Any]) -> list[str]:
    return [message["content"] for message in state["values"]["messages"]]


@pytest.fixture
def asked(http: httpx.Client) -> str:
    """A thread on which one question was answered."""
    thread_id = new_thread(http)
    ask(http, FEE, thread_id)
    return thread_id


# --- changed and removed


def test_metadata_is_merged_key_by_key(http: httpx.Client) -> None:
    thread_id = http.post("/threads", json={"metadata": {"a": 1, "b": {"c": 2}}}).json()["thread_id"]

    changed = http.patch(f"/threads/{thread_id}", json={"metadata": {"b": {"d": 3}, "e": None}})

    assert (changed.status_code, changed.json()["metadata"]) == (200, {"a": 1, "b": {"d": 3}, "e": None})
    assert http.get(f"/threads/{thread_id}").json()["metadata"] == changed.json()["metadata"]
    assert changed.json()["updated_at"] > changed.json()["created_at"]


def test_a_caller_who_wants_no_answer_gets_none(http: httpx.Client) -> None:
    thread_id = new_thread(http)
    changed = http.patch(f"/threads/{thread_id}", json={"metadata": {"a": 1}}, headers={"prefer": "return=minimal"})

    assert (changed.status_code, changed.content) == (204, b"")
    assert http.get(f"/threads/{thread_id}").json()["metadata"] == {"a": 1}


def test_a_removed_thread_leaves_nothing(http: httpx.Client, asked: str) -> None:
    """Record, runs and states; its id can be used again, and then knows nothing."""
    assert http.delete(f"/threads/{asked}").status_code == 204

    for path in ("", "/state", "/runs", "/history"):
        answer = http.get(f"/threads/{asked}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "thread_not_found")
    http.post("/threads", json={"thread_id": asked}).raise_for_status()
    assert http.get(f"/threads/{asked}/state").json()["values"] == {}
    assert http.get(f"/threads/{asked}/runs").json() == []


def test_what_is_under_way_on_a_removed_thread_ends(one: httpx.Client, other: httpx.Client) -> None:
    """Also where another process executes it, and what waits behind it."""
    thread_id = new_thread(one)
    for _ in range(2):
        one.post(f"/threads/{thread_id}/runs", json=brisk("hang", assistant_id="sticky")).raise_for_status()
    wait_until(lambda: "running" in {run["status"] for run in one.get(f"/threads/{thread_id}/runs").json()}, 10)

    assert other.delete(f"/threads/{thread_id}").status_code == 204
    wait_until(lambda: 'capataz_runs_active{graph="sticky"} 0.0' in one.get("/metrics").text, 10)

    assert one.get(f"/threads/{thread_id}").status_code == 404


@pytest.mark.parametrize(("method", "path"), [("patch", ""), ("delete", ""), ("post", "/state"), ("get", "/history")])
def test_a_thread_that_does_not_exist_is_404(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, f"/threads/{UNKNOWN}{path}", json=None if method in ("get", "delete") else {})
    assert (answer.status_code, answer.json()["code"]) == (404, "thread_not_found")


# --- looked at as they were


def test_every_state_can_be_read_by_its_checkpoint(http: httpx.Client, asked: str) -> None:
    for state in states(http, asked):
        found = http.get(f"/threads/{asked}/state/{state['checkpoint_id']}").json()
        named = http.post(f"/threads/{asked}/state/checkpoint", json={"checkpoint": state["checkpoint"]}).json()
        assert found == named == state


def test_a_checkpoint_that_the_thread_lacks_is_404(http: httpx.Client, asked: str) -> None:
    answer = http.get(f"/threads/{asked}/state/{UNKNOWN}")
    assert (answer.status_code, answer.json()["code"]) == (404, "checkpoint_not_found")


def test_history_by_query_pages_backwards(http: httpx.Client, asked: str) -> None:
    newest, *older = states(http, asked)

    page = http.get(f"/threads/{asked}/history", params={"limit": 2, "before": newest["checkpoint_id"]}).json()

    assert page == older[:2]


# --- written by hand


def test_a_state_written_by_hand_is_what_the_next_run_goes_on_from(http: httpx.Client, asked: str) -> None:
    """A message more; the checkpoint that is answered is the latest state."""
    message = {"role": "assistant", "content": "A colleague has refunded the fee.", "id": str(uuid4())}
    written = http.post(f"/threads/{asked}/state", json={"values": {"messages": [message]}, "as_node": "respond"}).raise_for_status()

    state = http.get(f"/threads/{asked}/state").json()
    assert written.json()["checkpoint"] == state["checkpoint"]
    assert (texts(state)[-1], state["next"], state["metadata"]["source"]) == (message["content"], [], "update")
    assert http.get(f"/threads/{asked}").json()["status"] == "idle"
    ask(http, "And how long does a top-up take?", asked)
    assert message["content"] in texts(http.get(f"/threads/{asked}/state").json())


def test_a_state_written_on_an_older_one_forks_the_conversation(http: httpx.Client, asked: str) -> None:
    """The node that is named decides what comes next; a run without an input goes on from there."""
    first = states(http, asked)[-1]
    question = {"role": "user", "content": "How do I order a card?", "id": str(uuid4())}

    body = {"values": {"messages": [question]}, "as_node": "__start__", "checkpoint": first["checkpoint"]}
    http.post(f"/threads/{asked}/state", json=body).raise_for_status()

    forked = http.get(f"/threads/{asked}").json()
    assert (forked["status"], states(http, asked)[0]["next"]) == ("interrupted", ["supervise"])
    values = http.post(f"/threads/{asked}/runs/wait", json={"assistant_id": "supervisor"}).raise_for_status().json()
    assert FEE not in [message["content"] for message in values["messages"]]
    assert "card" in values["answer"]


def test_a_thread_with_a_run_under_way_takes_no_state(one: httpx.Client) -> None:
    thread_id = new_thread(one)
    run = one.post(f"/threads/{thread_id}/runs", json=brisk("hang", assistant_id="sticky")).json()

    answer = one.post(f"/threads/{thread_id}/state", json={"values": {"messages": [{"role": "user", "content": "hi"}]}})

    assert (answer.status_code, answer.json()["code"]) == (409, "thread_busy")
    assert "retry-after" in answer.headers
    one.post(f"/threads/{thread_id}/runs/{run['run_id']}/cancel", params={"wait": True}).raise_for_status()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"values": {"answer": "free money"}}, 422, "invalid_input"),
        ({"values": {"messages": [{"role": "nobody", "content": "x"}]}}, 422, "invalid_input"),
        ({"values": {"customer": {"tier": "vip"}}, "as_node": "nobody"}, 422, "invalid_update"),
        ({"values": {"customer": {"tier": "vip"}}, "checkpoint_id": UNKNOWN}, 404, "checkpoint_not_found"),
    ],
)
def test_a_state_that_the_graph_cannot_take_is_refused_and_the_thread_stays_usable(
    http: httpx.Client, asked: str, body: dict[str, Any], status: int, code: str
) -> None:
    before = states(http, asked)

    answer = http.post(f"/threads/{asked}/state", json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert states(http, asked) == before
    assert http.get(f"/threads/{asked}").json()["status"] == "idle"
    ask(http, FEE, asked)


def test_the_sdk_does_all_of_it(http: httpx.Client, asked: str) -> None:
    """The real client of the protocol, unchanged."""
    with get_sync_client(url=str(http.base_url)) as client:
        client.threads.update(asked, metadata={"colour": "blue"})
        assert client.threads.get(asked)["metadata"]["colour"] == "blue"
        oldest = client.threads.get_history(asked, limit=100)[-1]
        assert client.threads.get_state(asked, checkpoint_id=oldest["checkpoint"]["checkpoint_id"])["values"] == oldest["values"]
        assert client.threads.get_state(asked, checkpoint=oldest["checkpoint"])["values"] == oldest["values"]
        written = client.threads.update_state(asked, {"customer": {"tier": "vip"}}, as_node="respond")
        assert written["checkpoint"]["checkpoint_id"] == client.threads.get_state(asked)["checkpoint"]["checkpoint_id"]
        client.threads.delete(asked)
    assert http.get(f"/threads/{asked}").status_code == 404
