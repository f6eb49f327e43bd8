"""Redis is away for a while, dead or frozen: every request is answered within its deadline, and afterwards all is as before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import cycle

import httpx
import pytest

from app.runs.events import OVERDUE
from tests.chaos.conftest import IS_FULL
from tests.support.fleet import Fleet
from tests.support.protocol import some_id
from tests.support.provider import Provider, Reply, Request, concludes, is_routing, routes_to
from tests.support.redis_server import RedisServer, short_directory
from tests.support.traffic import MODES, Answer, ask, customers
from tests.support.waiting import until

AWAY = 10.0 if IS_FULL else 5.0
"""How long Redis is away, seconds."""
LEAD = 1.0
"""How long there is traffic before, seconds."""
EVERY = 0.1
"""Seconds between two requests."""
DEADLINES = (3.0, 3.0, 1.0, 1.0)
"""What the requests have, in turns, seconds."""
READ_LIMIT = 2.0
"""Longest that a read waits for Redis, seconds (docs/failures.md)."""
GRACE = 0.5
"""What an answer needs on its way, seconds."""
TYPED = {"", "storage_unavailable", "deadline_exceeded", "cut"}
"""What a run may come to: an answer, or one of these codes. A connection that is cut says: come back, the run goes on."""
Fault = Callable[[RedisServer], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def frozen(redis: RedisServer) -> Iterator[None]:
    """It answers nothing, and its connections stay open."""
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(redis.pid, signal.SIGCONT)


@contextlib.contextmanager
def dead(redis: RedisServer) -> Iterator[None]:
    """It is killed, and started again."""
    redis.kill()
    try:
        yield
    finally:
        redis.start()


def behaviour(request: Request) -> Reply:
    """Every run is under way for a while."""
    time.sleep(0.2)  # the provider's, in a thread of its own
    return routes_to("general_support") if is_routing(request) else concludes("From nine to five.")


@pytest.mark.parametrize("away", [frozen, dead], ids=lambda fault: fault.__name__)
async def test_no_request_outlives_its_deadline_while_redis_is_away(tmp_path, slack, away: Fault):
    """Runs that are waited for and streamed, and reads, one of each every tenth of a second before and during the outage."""
    with short_directory() as directory, RedisServer(directory, keeps=True) as redis, Provider(behaviour).serving() as provider:
        fleet = Fleet(tmp_path, redis.url, OPENAI_BASE_URL=provider.url, LEASE_SECONDS="2")
        try:
            service = fleet.gateway(EXECUTION="local")
            async with customers(service.url) as http:
                assert [(await ask(http, "When are you open?", mode)).is_whole for mode in ("wait", "stream")] == [True, True]
                traffic = asyncio.create_task(_traffic(http, LEAD + AWAY))
                await asyncio.sleep(LEAD)  # runs are under way
                with away(redis):
                    runs, reads = await traffic
                answers = await asyncio.gather(*runs)
                statuses = await asyncio.gather(*reads)
                await until(lambda: asyncio.to_thread(service.is_ready), 20)
                afterwards = [await ask(http, "When are you open?", mode, deadline=20.0) for mode in ("wait", "stream")]
        finally:
            fleet.close()
    over = max(answer.seconds - deadline for answer, deadline in zip(answers, cycle(DEADLINES), strict=False))
    codes = {code: sum(answer.code == code for answer in answers) for code in sorted({answer.code for answer in answers})}
    print(f"{away.__name__}: {len(answers)} runs, at most {over:.2f} s over their deadline, {codes}; {len(statuses)} reads")  # noqa: T201
    assert set(codes) <= TYPED
    assert over <= OVERDUE + GRACE * slack
    assert {status for status, _ in statuses} <= {404, 503}
    assert max(seconds for _, seconds in statuses) <= READ_LIMIT + GRACE * slack
    assert [answer.is_whole for answer in afterwards] == [True, True], afterwards


async def _traffic(http: httpx.AsyncClient, seconds: float) -> tuple[list[asyncio.Task[Answer]], list[asyncio.Task[tuple[int, float]]]]:
    runs: list[asyncio.Task[Answer]] = []
    reads: list[asyncio.Task[tuple[int, float]]] = []
    end = time.monotonic() + seconds
    modes, deadlines = cycle(MODES), cycle(DEADLINES)
    while time.monotonic() < end:
        runs.append(asyncio.create_task(ask(http, "When are you open?", next(modes), deadline=next(deadlines))))
        reads.append(asyncio.create_task(_read(http)))
        await asyncio.sleep(EVERY)  # the pace of the traffic
    return runs, reads


async def _read(http: httpx.AsyncClient) -> tuple[int, float]:
    begun = time.monotonic()
    response = await http.get(f"/threads/{some_id()}")
    return response.status_code, time.monotonic() - begun
