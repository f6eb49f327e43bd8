"""Follows a run or a thread: the events of a stream as objects of the generated models, taken up again where the connection was cut.

A run is created once however often its request has to be sent: one that creates a run carries an `Idempotency-Key`, the caller's or a
new one. After the answer has begun, only its `Location` is asked, with the id of the last event that was read; the stream of protocol v2
has none, and goes on after the `since` of its request.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Generic, TypeVar
from uuid import uuid4

import httpx

from .client import AuthenticatedClient, Client
from .models import Problem

Event = TypeVar("Event")
TERMINAL = frozenset({"end", "error"})
TRIES = 5
"""How often in a row a stream may fail to bring a new event before it is given up."""
DELAY, LONGEST_DELAY = 1.0, 30.0
"""The first wait before coming back, unless the service names another, and the longest one; seconds."""
SILENCE = 20.0
"""A connection that says nothing for so long is dead, seconds: the service says something every 5."""


class Refused(Exception):
    """The service says no.

    Args:
        status_code: The HTTP status.
        problem: Why; None if the answer does not say it in the documented form.
    """

    def __init__(self, status_code: int, problem: Problem | None) -> None:
        super().__init__(problem.detail if problem else f"HTTP status {status_code}")
        self.status_code = status_code
        self.problem = problem


class StreamLost(Exception):
    """The stream was cut and could not be taken up again; the run goes on without a reader."""


class _Reading(Generic[Event]):
    """What is known of one stream, whatever kind of client reads it."""

    def __init__(self, request: dict[str, Any], kinds: Mapping[str, type[Event]]) -> None:
        self._kinds: Mapping[str, Any] = kinds
        self._first = {**request, "headers": {**request.get("headers", {}), "Accept": "text/event-stream"}}
        if request["method"] == "post" and not any(name.lower() == "idempotency-key" for name in self._first["headers"]):
            self._first["headers"]["Idempotency-Key"] = str(uuid4())
        self._location: str | None = None
        self._has_begun = self._is_of_a_run = self._is_protocol = False
        self._last_id = self._first["headers"].get("Last-Event-ID", "-1")
        self._failures = 0
        self._delay = DELAY
        self._rest = b""
        self._fields: dict[str, str] = {}
        self.has_ended = False

    def request(self) -> dict[str, Any]:
        """The next request to send."""
        timeout = httpx.Timeout(SILENCE)
        if self._location is None:
            return {**self._first, "timeout": timeout}
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self._last_id}
        return {"method": "get", "url": self._location, "headers": headers, "timeout": timeout}

    def opened(self, response: httpx.Response) -> None:
        """An answer without its body, if it is a stream."""
        location = response.headers.get("Location")
        self._has_begun = True
        if location is not None:
            self._location = str(response.url.join(location))
            self._is_of_a_run = re.search("/runs/[^/]+/stream$", location) is not None
        elif response.request.method == "GET" and self._location is None:
            self._location = str(response.url)
        elif self._location is None:
            self._is_protocol = True
        self._rest, self._fields = b"", {}

    def may_come_back(self, response: httpx.Response) -> bool:
        """Whether a refusal is worth another try: not the first request's, and not one that will stay."""
        return self._has_begun and (response.status_code == 429 or response.status_code >= 500)

    def closed(self) -> None:
        """The answer has ended properly: that is the last word, but for a run, whose last event is."""
        self.has_ended = self.has_ended or not self._is_of_a_run

    def events(self, chunk: bytes) -> Iterator[Event]:
        """The events that end in the next piece of the answer. Lines end with a line feed only: JSON may hold other separators."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = self._event(line.removesuffix(b"\r").decode())
            if event is not None:
                yield event

    def _event(self, line: str) -> Event | None:
        """The event that ends with this line, if one does; names that these models do not know are passed over."""
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        if "retry" in fields:
            self._delay = int(fields["retry"]) / 1000
        if "event" not in fields:
            return None
        name, *namespace = fields["event"].split("|")
        self._failures = 0
        self._last_id = fields.get("id", self._last_id)
        self.has_ended = self._is_of_a_run and name in TERMINAL
        data = json.loads(fields["data"])
        if self._is_protocol:
            self._first = {**self._first, "json": {**self._first["json"], "since": int(self._last_id)}}
        if name not in self._kinds:
            return None
        said = data if self._is_protocol else {"event": name, "namespace": namespace, "id": self._last_id, "data": data}
        found: Event = self._kinds[name].from_dict(said)
        return found

    def wait(self, cause: Exception | None) -> float:
        """How long to wait before the next request, seconds."""
        self._failures += 1
        if self._failures > TRIES:
            raise StreamLost(f"no new event in {TRIES} tries") from cause
        return min(self._delay * 2.0 ** (self._failures - 1), LONGEST_DELAY)


def follow(client: AuthenticatedClient | Client, request: dict[str, Any], kinds: Mapping[str, type[Event]]) -> Iterator[Event]:
    """The events of the stream that `request` asks for; `kinds` are their models by name."""
    reading = _Reading(request, kinds)
    while not reading.has_ended:
        cause: Exception | None = None
        try:
            with client.get_httpx_client().stream(**reading.request()) as response:
                if response.status_code == 200:
                    reading.opened(response)
                    for chunk in response.iter_bytes():
                        yield from reading.events(chunk)
                        if reading.has_ended:
                            return
                    reading.closed()
                elif not reading.may_come_back(response):
                    response.read()
                    raise Refused(response.status_code, _problem(response))
        except httpx.TransportError as exc:
            cause = exc
        if not reading.has_ended:
            time.sleep(reading.wait(cause))


async def afollow(client: AuthenticatedClient | Client, request: dict[str, Any], kinds: Mapping[str, type[Event]]) -> AsyncIterator[Event]:
    """The same as `follow`, for asyncio."""
    reading = _Reading(request, kinds)
    while not reading.has_ended:
        cause: Exception | None = None
        try:
            async with client.get_async_httpx_client().stream(**reading.request()) as response:
                if response.status_code == 200:
                    reading.opened(response)
                    async for chunk in response.aiter_bytes():
                        for event in reading.events(chunk):
                            yield event
                        if reading.has_ended:
                            return
                    reading.closed()
                elif not reading.may_come_back(response):
                    await response.aread()
                    raise Refused(response.status_code, _problem(response))
        except httpx.TransportError as exc:
            cause = exc
        if not reading.has_ended:
            await asyncio.sleep(reading.wait(cause))


def _problem(response: httpx.Response) -> Problem | None:
    try:
        return Problem.from_dict(response.json())
    except (ValueError, KeyError, TypeError):
        return None
