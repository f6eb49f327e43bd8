"""Commands that travel together: each has its own reply and its own error, and who leaves or breaks down affects nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError, DataError, ResponseError, TimeoutError

from app.storage.redis import shared_trips
from app.storage.redis.connection import connect
from app.storage.redis.shared_trips import MOST_TOGETHER, TRIPS_AT_ONCE, SharedTrips
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

LIMIT = 10.0
"""Longest that a test waits for something, seconds."""
HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each trip had."""
    made: list[int] = []
    trip = SharedTrips._trip

    async def counted(self: SharedTrips, connection: Any, commands: Any) -> None:
        made.append(len(commands))
        await trip(self, connection, commands)

    monkeypatch.setattr(SharedTrips, "_trip", counted)
    return made


@asynccontextmanager
async def server(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[SharedTrips]:
    """A client of a server that greets as Redis does and then does as it is told, once per connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"HELLO" in await reader.read(4096)
        writer.write(HELLO)
        await answer(reader, writer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        client = connect(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}", command_timeout=0.2)
        yield client
        await client.aclose()


async def test_what_is_issued_at_once_travels_at_once(redis_client: SharedTrips, trips: list[int]) -> None:
    """In as few trips as there is room in, over as few connections; every reply goes to its caller."""
    found = await asyncio.gather(*(redis_client.set(f"k{i}", i) for i in range(MOST_TOGETHER + 10)))
    read = await asyncio.gather(*(redis_client.get(f"k{i}") for i in range(MOST_TOGETHER + 10)))

    assert found == [True] * (MOST_TOGETHER + 10)
    assert read == [str(i).encode() for i in range(MOST_TOGETHER + 10)]
    assert trips == [MOST_TOGETHER, 10] * 2


async def test_a_lone_command_waits_for_no_company(redis_client: SharedTrips, trips: list[int]) -> None:
    """One after the other, one by one."""
    for _ in range(3):
        await redis_client.incr("n")

    assert trips == [1, 1, 1]


async def test_what_is_issued_while_all_trips_are_under_way_makes_the_next(own_redis: RedisServer, trips: list[int]) -> None:
    """Together, as soon as one is back."""
    client = connect(own_redis.url)
    pool = client.connection_pool
    for connection in [await pool.get_connection() for _ in range(TRIPS_AT_ONCE)]:
        await pool.release(connection)
    os.kill(own_redis.pid, signal.SIGSTOP)
    under_way = []
    for _ in range(TRIPS_AT_ONCE):
        under_way.append(asyncio.create_task(client.incr("n")))
        await until(lambda: asyncio.sleep(0, len(trips) == len(under_way)), LIMIT)
    waiting = [asyncio.create_task(client.incr("n")) for _ in range(10)]
    await asyncio.sleep(0)
    os.kill(own_redis.pid, signal.SIGCONT)

    assert sorted(await asyncio.gather(*under_way, *waiting)) == list(range(1, TRIPS_AT_ONCE + 11))
    assert trips == [1] * TRIPS_AT_ONCE + [10]
    await client.aclose()


async def test_an_error_is_its_own_commands(redis_client: SharedTrips) -> None:
    """Whoever travels with it has what was asked for."""
    await redis_client.set("word", "x")

    asked = [redis_client.get("word"), redis_client.lpush("word", "y"), redis_client.incr("n"), redis_client.get("n")]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [bytes, ResponseError, int, bytes]
    assert (outcomes[0], outcomes[2], outcomes[3]) == (b"x", 1, b"1")


async def test_an_argument_that_cannot_travel_is_its_callers_fault(redis_client: SharedTrips) -> None:
    """It is refused before anything is sent."""
    outcomes = await asyncio.gather(redis_client.set("k", object()), redis_client.set("k", 1), return_exceptions=True)  # type: ignore[arg-type]

    assert isinstance(outcomes[0], DataError)
    assert outcomes[1] is True


async def test_who_leaves_before_the_trip_takes_the_command_along(redis_client: SharedTrips) -> None:
    """It is never sent."""
    leaving = asyncio.create_task(redis_client.incr("n"))
    staying = asyncio.create_task(redis_client.incr("m"))
    await asyncio.sleep(0)
    leaving.cancel()

    assert await staying == 1
    assert await redis_client.get("n") is None
    assert leaving.cancelled()


async def test_who_leaves_on_the_way_disturbs_nobody(own_redis: RedisServer, trips: list[int]) -> None:
    """The command is executed once, its reply is dropped, and the others' replies are theirs."""
    client = connect(own_redis.url)
    await client.ping()
    trips.clear()
    os.kill(own_redis.pid, signal.SIGSTOP)
    tasks = [asyncio.create_task(client.incrby(key, by)) for key, by in (("a", 10), ("b", 20), ("c", 30))]
    await until(lambda: asyncio.sleep(0, trips == [3]), LIMIT)
    tasks[1].cancel()
    os.kill(own_redis.pid, signal.SIGCONT)

    assert (await tasks[0], await tasks[2]) == (10, 30)
    assert [await client.get(key) for key in ("a", "b", "c")] == [b"10", b"20", b"30"]
    await client.aclose()


async def test_a_connection_that_breaks_fails_what_is_not_answered_yet() -> None:
    """Who has a reply keeps it; the others are told, and nothing is sent again."""
    received = bytearray()

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received.count(b"INCR") < 3 and (data := await reader.read(4096)):
            received.extend(data)
        writer.write(b":7\r\n")
        await writer.drain()

    async with server(answer_one) as client:
        outcomes = await asyncio.gather(*(client.incr("n") for _ in range(3)), return_exceptions=True)

    assert outcomes[0] == 7
    assert [isinstance(outcome, ConnectionError) for outcome in outcomes[1:]] == [True, True]
    assert received.count(b"INCR") == 3


async def test_a_silent_server_costs_its_time_once() -> None:
    """Also those who wait behind the trips under way have waited long enough when these are given up."""
    connections = 0

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()

    async with server(silence) as client:
        asking = []
        for _ in range(TRIPS_AT_ONCE + 3):
            asking.append(asyncio.create_task(client.get("k")))
            if len(asking) <= TRIPS_AT_ONCE:
                await until(lambda: asyncio.sleep(0, not client._waiting), LIMIT)
        outcomes = await asyncio.gather(*asking, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [TimeoutError] * len(outcomes)
    assert connections <= TRIPS_AT_ONCE


async def test_who_blocks_holds_up_nobody(redis_client: SharedTrips) -> None:
    """Commands that wait for something have a connection of their own."""
    blocked = asyncio.create_task(redis_client.blpop(["list"], timeout=1))
    while not (await redis_client.info("clients"))["blocked_clients"]:
        ...
    assert await asyncio.gather(*(redis_client.incr("n") for _ in range(10))) == list(range(1, 11))

    await redis_client.rpush("list", "x")

    assert list(await blocked) == [b"list", b"x"]


async def test_two_hundred_writers_share_what_one_needs(redis_client: SharedTrips, trips: list[int]) -> None:
    """Each counts for itself, over no more connections than there may be trips."""

    async def count(name: int) -> list[Any]:
        return [await redis_client.incr(f"n{name}") for _ in range(20)]

    found = await asyncio.gather(*map(count, range(200)))

    assert found == [list(range(1, 21))] * 200
    assert len(redis_client.connection_pool._available_connections) <= TRIPS_AT_ONCE
    assert (sum(trips), max(trips)) == (4_000, MOST_TOGETHER)


async def test_what_is_issued_when_a_trip_ends_is_not_forgotten(redis_client: SharedTrips, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moment it is: of the only trip there may be, or of the last of several that end together."""
    monkeypatch.setattr(shared_trips, "TRIPS_AT_ONCE", 1)

    for turns in range(60):
        await redis_client.incr("n")
        for _ in range(turns):  # of the event loop
            await asyncio.sleep(0)
        async with asyncio.timeout(LIMIT):
            await redis_client.incr("n")
