"""What the tests say to the service, and how they read what it streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

GRAPH = "supervisor"
TERMINAL = {"end", "error"}


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; `frame` is its text on the wire."""

    name: str
    data: Any
    id: int
    frame: str


def says(text: str, **customer: str) -> dict[str, Any]:
    """The body of a run in which the customer says `text`."""
    given: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    return {"assistant_id": GRAPH, "input": {**given, **({"customer": customer} if customer else {})}}


def brisk(text: str, **wishes: Any) -> dict[str, Any]:
    """The body of a run of the conformance graph with short steps (`tests.support.engine_process`)."""
    return {"assistant_id": "brisk", "input": {"messages": [{"role": "user", "content": text}]}, **wishes}


def resumes(answer: Any, **wishes: Any) -> dict[str, Any]:
    """The body of a run of that graph which answers what it asked."""
    return {"assistant_id": "brisk", "command": {"resume": answer}, **wishes}


def new_thread(http: httpx.Client) -> str:
    """The id of a new thread."""
    thread_id: str = http.post("/threads", json={}).raise_for_status().json()["thread_id"]
    return thread_id


def ask(http: httpx.Client, text: str, thread_id: str | None = None, **customer: str) -> dict[str, Any]:
    """The final values of a run in which the customer says `text`, on a thread of its own unless one is given."""
    path = f"/threads/{thread_id or new_thread(http)}/runs/wait"
    values: dict[str, Any] = http.post(path, json=says(text, **customer)).raise_for_status().json()
    return values


def events(response: httpx.Response) -> Iterator[Event]:
    """The events of a stream as they come; heartbeats are left out."""
    lines: list[str] = []
    for line in response.iter_lines():
        if line:
            lines.append(line)
            continue
        fields = dict(part.split(": ", 1) for part in lines if not part.startswith(":"))
        if fields:
            yield Event(fields["event"], json.loads(fields["data"]), int(fields["id"]), "\n".join(lines))
        lines = []


def stream(http: httpx.Client, path: str, body: dict[str, Any]) -> tuple[httpx.Response, list[Event]]:
    """The answer and all events of a streamed run."""
    with http.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        return response, list(events(response))


def follow(http: httpx.Client, path: str, last_event_id: str | int | None = None, **query: Any) -> list[Event]:
    """All events that a reader gets who joins a run."""
    headers = {} if last_event_id is None else {"last-event-id": str(last_event_id)}
    with http.stream("GET", path, headers=headers, params=query) as response:
        assert response.status_code == 200, response.read()
        return list(events(response))


def some_id() -> str:
    """An id that nothing has."""
    return str(uuid4())
