"""Customers who ask at the same time, waiting or streaming, and what each of them got and when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from tests.support.protocol import says

Mode = Literal["wait", "stream"]
MODES: tuple[Mode, ...] = ("wait", "stream")
PATIENCE = 90.0
"""Seconds after which a customer is taken for one who hangs; no promise is as long."""


@dataclass(frozen=True)
class Answer:
    """What a customer got.

    Args:
        seconds: How long it took, to the last byte.
        status: The HTTP status; 0: the connection broke before there was one.
        values: The final values of the run; empty if it failed.
        code: Why there are none; "": there are. `cut`: the connection broke, or the stream ended without its end.
    """

    seconds: float
    status: int
    values: dict[str, Any] = field(default_factory=dict)
    code: str = ""

    @property
    def text(self) -> str:
        """What the customer was told."""
        return str(self.values.get("answer"))

    @property
    def degraded(self) -> list[tuple[str, str]]:
        """What was done in a lesser way, and why."""
        return [(entry["what"], entry["why"]) for entry in self.values.get("degraded", ())]

    @property
    def is_whole(self) -> bool:
        """Whether the run went as it should: no error, nobody called, nothing degraded."""
        return not self.code and self.values.get("escalation") is None and not self.degraded


@asynccontextmanager
async def customers(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with room for as many customers as a test has."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as http:
        yield http


async def ask(
    http: httpx.AsyncClient, text: str, mode: Mode = "wait", *, deadline: float | None = None, body: dict[str, Any] | None = None
) -> Answer:
    """One question on a thread of its own, followed to its end.

    Args:
        http: The service.
        text: What the customer says.
        mode: How the customer follows: waiting for the values, or reading the stream.
        deadline: Seconds that the request has; None: the service's default.
        body: Asked instead of the supervisor, in the form of the protocol.
    """
    headers = {"x-deadline-ms": str(int(deadline * 1000))} if deadline is not None else {}
    wanted = body or says(text)
    begun, status = time.monotonic(), 0
    try:
        if mode == "wait":
            response = await http.post("/runs/wait", json=wanted, headers=headers)
            status, found = response.status_code, response.json()
        else:
            wanted = {**wanted, "stream_mode": ["messages-tuple", "values"]}
            async with http.stream("POST", "/runs/stream", json=wanted, headers=headers) as response:
                status = response.status_code
                found = await _followed(response) if status == 200 else json.loads(await response.aread())
    except (httpx.TransportError, json.JSONDecodeError):
        return Answer(time.monotonic() - begun, status, code="cut")
    seconds = time.monotonic() - begun
    if status != 200:
        return Answer(seconds, status, code=found["code"])
    if "__error__" in found:
        return Answer(seconds, status, code=found["__error__"]["code"])
    return Answer(seconds, status, found)


async def ask_all(
    http: httpx.AsyncClient, texts: Sequence[str], mode: Mode, *, at_once: int, deadline: float | None = None
) -> list[Answer]:
    """The answers to all `texts`, in their order, with at most `at_once` questions open."""
    room = asyncio.Semaphore(at_once)

    async def one(text: str) -> Answer:
        async with room:
            return await ask(http, text, mode, deadline=deadline)

    return await asyncio.gather(*map(one, texts))


async def _followed(response: httpx.Response) -> dict[str, Any]:
    """The last values of a stream, or its error; a stream without its end is neither."""
    name, values = "", {}
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: ") and name == "values":
            values = json.loads(line.removeprefix("data: "))
        elif line.startswith("data: ") and name == "error":
            return {"__error__": json.loads(line.removeprefix("data: "))}
        elif line.startswith("data: ") and name == "end":
            return values
    return {"__error__": {"code": "cut"}}


def p95(answers: Sequence[Answer]) -> float:
    """The time in which 95 of 100 got their answer, seconds."""
    return sorted(answer.seconds for answer in answers)[int(len(answers) * 0.95)]
