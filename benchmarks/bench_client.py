"""The load: an HTTP/1.1 client that does little more than count, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from uuid import uuid4

import httptools

RUN_LIMIT = 120.0
"""Seconds after which a run without an end is taken for lost."""
FIRST_TOKEN = b"event: messages\n"
_CODE = re.compile(rb'"code": ?"(\w+)"')


@dataclass(frozen=True)
class Target:
    """One route of one server.

    Args:
        port: Where it listens, on the loopback interface.
        path: The route; `{thread}` becomes a new id for every run.
        body: What is posted.
        ending: What the last bytes of a good answer hold.
    """

    port: int
    path: str
    body: dict[str, object]
    ending: bytes

    def request(self) -> bytes:
        """The bytes of one more run."""
        body = json.dumps(self.body).encode()
        head = f"POST {self.path.format(thread=uuid4())} HTTP/1.1\r\nhost: localhost:{self.port}\r\ncontent-type: application/json\r\n"
        return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


@dataclass
class Sample:
    """What one run took, seconds; `first` is None if no token came. `fault` says why it does not count."""

    seconds: float
    first: float | None
    fault: str = ""


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time.

    Args:
        on_headers: Called when the head of a response is there.
    """

    def __init__(self, on_headers: Callable[[], None] = lambda: None) -> None:
        self._on_headers = on_headers
        self._done: asyncio.Future[None] | None = None
        self._body = bytearray()
        self._first_at: float | None = None

    @classmethod
    async def open(cls, port: int, on_headers: Callable[[], None] = lambda: None) -> Connection:
        """A connection to a server of this machine."""
        _, connection = await asyncio.get_running_loop().create_connection(lambda: cls(on_headers), "127.0.0.1", port)
        return connection

    async def run(self, target: Target) -> Sample:
        """Make one run and read it to its end."""
        self._parser = httptools.HttpResponseParser(self)
        self._body.clear()
        self._first_at = None
        self._done = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        self._transport.write(target.request())
        try:
            async with asyncio.timeout(RUN_LIMIT):
                await self._done
        except (ConnectionError, TimeoutError) as exc:
            return Sample(time.perf_counter() - begun, None, type(exc).__name__)
        seconds = time.perf_counter() - begun
        status = self._parser.get_status_code()
        is_good = status == 200 and target.ending in self._body
        code = _CODE.search(self._body)
        fault = "" if is_good else f"{status} {code[1].decode() if code else bytes(self._body[-200:]).decode(errors='replace')}"
        return Sample(seconds, self._first_at - begun if self._first_at else None, fault)

    @property
    def is_open(self) -> bool:
        """Whether it can be used once more; servers close what is idle."""
        return not self._transport.is_closing()

    def close(self) -> None:
        """Leave."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self._on_headers()

    def on_body(self, data: bytes) -> None:
        self._body += data
        if self._first_at is None and FIRST_TOKEN in self._body:
            self._first_at = time.perf_counter()

    def on_message_complete(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


@dataclass
class Load:
    """What a server did with one round of load.

    Args:
        samples: One per run, in the order of their ends.
        seconds: From the first request to the last answer.
        open_at_once: Most streams that were open together.
    """

    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    open_at_once: int = 0


async def closed_loop(target: Target, concurrency: int, seconds: float) -> Load:
    """Runs one after the other on each of `concurrency` connections; none begins after `seconds`."""
    load = Load()
    connections = [await Connection.open(target.port) for _ in range(concurrency)]
    begun = time.perf_counter()

    async def work(connection: Connection) -> None:
        while time.perf_counter() < begun + seconds:
            load.samples.append(await connection.run(target))

    await asyncio.gather(*map(work, connections))
    load.seconds = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    return load


async def burst(target: Target, streams: int) -> Load:
    """`streams` runs asked for at one moment, over connections that are open already."""
    load, opened, ended = Load(), 0, 0

    def on_headers() -> None:
        nonlocal opened
        opened += 1
        load.open_at_once = max(load.open_at_once, opened - ended)

    async def follow(connection: Connection) -> None:
        nonlocal ended
        load.samples.append(await connection.run(target))
        ended += 1

    connections = [await Connection.open(target.port, on_headers) for _ in range(streams)]
    begun = time.perf_counter()
    await asyncio.gather(*map(follow, connections))
    load.seconds = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    return load
