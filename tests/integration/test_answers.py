"""Kept answers in a real Redis: written behind the request, ended by themselves, and never in the way."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from agents.answers import KeptAnswer
from app.storage.redis import answers as module
from app.storage.redis.answers import KEPT, MAX_WAITING, READ_LIMIT, RedisAnswers
from app.storage.redis.connection import connect

ANSWER = KeptAnswer("Wähle «PIN ändern».", 0.9, ("change-pin",))


class Outcomes(Counter[str]):
    """What became of answers; `until` waits for one of a kind to be heard of so often."""

    def __init__(self) -> None:
        super().__init__()
        self._heard = asyncio.Event()

    def __call__(self, outcome: str) -> None:
        self[outcome] += 1
        self._heard.set()

    async def until(self, outcome: str, times: int = 1) -> None:
        async with asyncio.timeout(10):
            while self[outcome] < times:
                self._heard.clear()
                await self._heard.wait()


@asynccontextmanager
async def writing(client: Redis, outcomes: Callable[[str], None]) -> AsyncIterator[RedisAnswers]:
    store = RedisAnswers(client, listener=outcomes)
    task = asyncio.create_task(store.run())
    try:
        yield store
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_was_kept_is_found_by_its_tenant(redis_client):
    """And by nobody else; it ends by itself."""
    outcomes = Outcomes()
    async with writing(redis_client, outcomes) as store:
        store.keep("acme", "k" * 64, ANSWER)
        await outcomes.until("kept")

        assert await store.find("acme", "k" * 64) == ANSWER
        assert await store.find("other", "k" * 64) is None
        assert await store.find("acme", "x" * 64) is None

    [key] = await redis_client.keys("*")
    assert 0 < await redis_client.pttl(key) <= KEPT * 1000
    assert outcomes == {"kept": 1, "found": 1, "missing": 2}


async def test_keeping_costs_the_request_nothing(redis_client):
    """It is written by a task of its own; of one question the latest answer, and over the bound none."""
    outcomes = Outcomes()
    store = RedisAnswers(redis_client, listener=outcomes)
    for i in range(MAX_WAITING + 5):
        store.keep("acme", f"{i:064}", ANSWER)
    store.keep("acme", f"{0:064}", KeptAnswer("later", 0.8, ()))
    assert outcomes == {"dropped": 5}

    task = asyncio.create_task(store.run())
    await outcomes.until("kept", MAX_WAITING)

    assert (await store.find("acme", f"{0:064}")).text == "later"
    task.cancel()


async def test_without_redis_nothing_is_found_and_nothing_raises(own_redis):
    """And when it is back, what comes then is kept."""
    client, outcomes = connect(own_redis.url), Outcomes()
    async with writing(client, outcomes) as store:
        own_redis.kill()

        assert await store.find("acme", "k" * 64) is None
        store.keep("acme", "k" * 64, ANSWER)
        await outcomes.until("dropped")
        assert outcomes == {"unavailable": 1, "dropped": 1}

        own_redis.start()
        store.keep("acme", "k" * 64, ANSWER)
        await outcomes.until("kept")
        assert await store.find("acme", "k" * 64) == ANSWER
    await client.aclose()


async def test_a_redis_that_hangs_is_not_waited_for(own_redis):
    """The customer has waited for a specialist already."""
    client, outcomes = connect(own_redis.url), Outcomes()
    store = RedisAnswers(client, listener=outcomes)
    assert await store.find("acme", "k" * 64) is None
    os.kill(own_redis.pid, signal.SIGSTOP)
    begun = time.monotonic()

    assert await store.find("acme", "k" * 64) is None

    assert time.monotonic() - begun < 3 * READ_LIMIT
    assert outcomes == {"missing": 1, "unavailable": 1}
    os.kill(own_redis.pid, signal.SIGCONT)
    assert await store.find("acme", "k" * 64) is None
    await client.aclose()


@pytest.mark.parametrize("command", ["set", "get"])
async def test_an_error_that_nobody_thought_of_ends_nothing(redis_client, redis_url, command):
    """A user without the right to write, or to read."""
    outcomes, kept = Outcomes(), "dropped" if command == "set" else "kept"
    await redis_client.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~*", "+@all", f"-{command}")
    client = connect(redis_url.replace("unix://", "unix://half@") + "?password=pw")
    async with writing(client, outcomes) as store:
        for times in (1, 2):
            store.keep("acme", "k" * 64, ANSWER)
            await outcomes.until(kept, times)
        assert await store.find("acme", "k" * 64) is None
    assert outcomes == {kept: 2, "missing" if command == "set" else "unavailable": 1}
    await client.aclose()
    await redis_client.execute_command("ACL", "DELUSER", "half")


def test_what_is_kept_is_bounded_in_time_and_number():
    """A day, and a thousand at once."""
    assert (module.KEPT, module.MAX_WAITING) == (86_400.0, 1_000)
