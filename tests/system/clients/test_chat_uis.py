"""What web chats for LangGraph send, as it is on the wire and in their order, odd fields and all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.engine_process import BRISK, STICKY
from tests.support.fleet import Member, wait_until
from tests.support.protocol import Event, events

ORIGIN = "http://localhost:3000"


@pytest.fixture(scope="module")
def page(served: Member, key: str) -> Iterator[httpx.Client]:
    """A page of another origin that sends what browsers and the JavaScript client add."""
    headers = {"x-api-key": key, "origin": ORIGIN, "content-type": "application/json", "x-request-id": str(uuid4())}
    with httpx.Client(base_url=served.url, headers=headers, timeout=30) as client:
        yield client


def human(text: str) -> dict[str, Any]:
    return {"id": str(uuid4()), "type": "human", "content": [{"type": "text", "text": text}]}


def read(response: httpx.Response) -> list[Event]:
    assert response.status_code == 200, response.read()
    assert response.headers["content-type"].startswith("text/event-stream")
    return list(events(response))


def streamed(page: httpx.Client, thread_id: str, **body: Any) -> list[Event]:
    with page.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
        return read(response)


def texts(values: Any) -> list[Any]:
    return [
        content if isinstance(content, str) else content[0]["text"] for content in (message["content"] for message in values["messages"])
    ]


def agent_chat(text: str | None, **more: Any) -> dict[str, Any]:
    """The body of a run of agent-chat-ui."""
    return {
        "input": {"messages": [human(text)]} if text else None,
        "assistant_id": BRISK,
        "stream_mode": ["values"],
        "stream_subgraphs": True,
        "stream_resumable": True,
        "on_disconnect": "continue",
        **more,
    }


def test_agent_chat_ui_opens_asks_and_reads_the_history(page: httpx.Client) -> None:
    """It probes, lists threads, makes one, streams on it and reads its history; then the thread is in its list."""
    preflight = page.options(
        "/threads",
        headers={"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key,x-auth-scheme"},
    )
    info = page.get("/info")
    thread_id = page.post("/threads", json={"thread_id": str(uuid4()), "metadata": {}, "if_exists": "do_nothing"}).json()["thread_id"]
    came = streamed(page, thread_id, **agent_chat("one two"))
    history = page.post(f"/threads/{thread_id}/history", json={"limit": 1000}).json()
    thread = page.get(f"/threads/{thread_id}").json()

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-headers"].lower().count("x-auth-scheme") == 1
    assert info.is_success
    assert info.headers["access-control-allow-origin"] in ("*", ORIGIN)
    assert texts(came[-2].data) == texts(history[0]["values"]) == ["one two", "one two"]
    assert history[-1]["parent_checkpoint"] is None
    assert thread["metadata"]["graph_id"] == BRISK


def test_agent_chat_ui_lists_its_threads(page: httpx.Client) -> None:
    """By the name of the graph, or by the id of the assistant if that is what was configured."""
    thread_id = page.post("/threads", json={}).json()["thread_id"]
    streamed(page, thread_id, **agent_chat("one"))
    assistant_id = page.get(f"/threads/{thread_id}").json()["metadata"]["assistant_id"]
    for metadata in ({"graph_id": BRISK}, {"assistant_id": assistant_id}):
        found = page.post("/threads/search", json={"metadata": metadata, "limit": 100, "offset": 0}).raise_for_status().json()
        assert thread_id in [thread["thread_id"] for thread in found]
        assert all(isinstance(thread["values"], dict) for thread in found if thread["thread_id"] == thread_id)


def test_agent_chat_ui_stops_a_run(page: httpx.Client) -> None:
    """It cancels, and the stream it still reads just ends."""
    thread_id = page.post("/threads", json={}).json()["thread_id"]
    with page.stream("POST", f"/threads/{thread_id}/runs/stream", json={**agent_chat("hang"), "assistant_id": STICKY}) as response:
        run_path = response.headers["content-location"]
        cancelled = page.post(f"{run_path}/cancel", params={"wait": "0", "action": "interrupt"}, content=b"")
        came = read(response)

    assert (cancelled.status_code, cancelled.content) == (202, b"")
    assert "error" not in {event.name for event in came}
    assert page.get(run_path).json()["status"] == "interrupted"


def test_agent_chat_ui_is_reloaded_in_mid_answer(page: httpx.Client) -> None:
    """It joins with `Last-Event-ID: -1` and sees everything once, from the first event on."""
    thread_id = page.post("/threads", json={}).json()["thread_id"]
    with page.stream("POST", f"/threads/{thread_id}/runs/stream", json=agent_chat("slow please")) as response:
        location, run_path = response.headers["location"], response.headers["content-location"]
        first = next(events(response))
    with page.stream("GET", location, headers={"last-event-id": "-1"}, params={"cancel_on_disconnect": "0"}) as response:
        came = read(response)

    assert "location" in response.headers["access-control-expose-headers"].lower()
    assert came[0] == first
    ids = [event.id for event in came]
    assert ids == sorted(set(ids))
    assert texts(came[-2].data) == ["slow please", "slow please"]
    assert page.get(run_path).json()["status"] == "success"


def test_agent_chat_ui_edits_and_regenerates(page: httpx.Client) -> None:
    """From the checkpoint before the message, without its thread id, which leaves the first branch as it is."""
    thread_id = page.post("/threads", json={}).json()["thread_id"]
    for text in ("one", "two"):
        streamed(page, thread_id, **agent_chat(text))
    states = page.post(f"/threads/{thread_id}/history", json={"limit": 1000}).json()
    first_seen = [next(state for state in reversed(states) if len(state["values"].get("messages", ())) > i) for i in range(4)]
    before = [{name: value for name, value in state["parent_checkpoint"].items() if name != "thread_id"} for state in first_seen[2:]]

    edited = streamed(page, thread_id, **agent_chat("other", checkpoint=before[0]))
    again = streamed(page, thread_id, **agent_chat(None, checkpoint=before[1]))
    after = page.post(f"/threads/{thread_id}/history", json={"limit": 1000}).json()

    assert texts(edited[-2].data) == ["one", "one", "other", "other"]
    assert texts(again[-2].data) == ["one", "one", "two", "two"]
    assert again[-2].data["messages"][3]["id"] != first_seen[3]["values"]["messages"][3]["id"]
    parents = [state["parent_checkpoint"]["checkpoint_id"] for state in after if state["parent_checkpoint"]]
    assert {reference["checkpoint_id"] for reference in before} <= {parent for parent in parents if parents.count(parent) == 2}


def test_agent_chat_ui_answers_a_question(page: httpx.Client) -> None:
    """It finds the question in the values and in the state, and sends the answer beside an empty input."""
    thread_id = page.post("/threads", json={}).json()["thread_id"]
    came = streamed(page, thread_id, **agent_chat("refund order 7"))
    state = page.get(f"/threads/{thread_id}/state").json()
    done = streamed(page, thread_id, **agent_chat(None, command={"resume": [{"type": "accept", "args": None}]}, input={}))

    assert came[-2].data["__interrupt__"][0]["value"]["order"] == 7
    assert state["tasks"][-1]["interrupts"][0]["value"]["order"] == 7
    assert texts(done[-2].data)[-1].startswith("order 7: [{")


def test_agent_chat_ui_ignores_a_question(page: httpx.Client) -> None:
    """It jumps to the end beside an empty input: LangGraph asks again, so the question still waits for its answer."""
    thread_id = page.post("/threads", json={}).json()["thread_id"]
    asked = streamed(page, thread_id, **agent_chat("refund order 7"))
    again = streamed(page, thread_id, **agent_chat(None, command={"goto": "__end__"}, input={}))

    assert again[-1].data["status"] == "success"
    assert again[-2].data["__interrupt__"] == asked[-2].data["__interrupt__"]
    assert page.get(f"/threads/{thread_id}").json()["status"] == "interrupted"


def test_assistant_ui_holds_a_conversation(page: httpx.Client) -> None:
    """Thread, state, stream in its modes, with a stray checkpoint id and a setting of its own."""
    thread_id = page.post("/threads", json={}).json()["thread_id"]
    empty = page.get(f"/threads/{thread_id}/state").json()
    body = {
        "assistant_id": BRISK,
        "input": {"messages": [{"type": "human", "content": "one two"}]},
        "config": {"configurable": {"model_name": "openai", "temperature": 0.1}},
        "stream_mode": ["messages", "updates", "custom"],
        "stream_subgraphs": False,
        "feedback_keys": [],
        "checkpoint_id": None,
        "langsmith_tracer": None,
    }
    came = streamed(page, thread_id, **body)
    tuples = streamed(page, thread_id, **{**body, "stream_mode": "messages-tuple"})
    state = page.get(f"/threads/{thread_id}/state").json()
    history = page.post(f"/threads/{thread_id}/history", json={}).json()

    assert (empty["values"], empty["next"]) == ({}, [])
    assert [event.data[0]["content"] for event in came if event.name == "messages/partial"][-1] == "one two"
    assert "".join(event.data[0]["content"] for event in tuples if event.name == "messages") == "one two"
    assert state["checkpoint_id"] == history[0]["checkpoint"]["checkpoint_id"]
    assert texts(state["values"]) == ["one two"] * 4


def test_assistant_ui_leaves_and_the_run_ends(page: httpx.Client) -> None:
    """Its stop only closes the connection, of a run that was started to end with it."""
    thread_id = page.post("/threads", json={}).json()["thread_id"]
    body = {"assistant_id": STICKY, "input": {"messages": [human("hang")]}, "stream_mode": ["messages-tuple"], "on_disconnect": "cancel"}
    with page.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
        run_path = response.headers["content-location"]
        next(events(response))

    wait_until(lambda: page.get(run_path).json()["status"] == "interrupted", 10)
