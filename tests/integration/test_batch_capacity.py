"""Batch runs may have half of what a process can execute."""

from __future__ import annotations

from typing import Any, cast

import pytest

from app.runs.dispatcher import BATCH_CAPACITY, CAPACITY, Dispatcher
from app.runs.executor import Executor
from app.storage.redis.keys import BATCH_WORK, WORK
from app.storage.redis.runs import RunRepository
from app.storage.redis.work import RunRef, WorkQueue
from tests.support.waiting import until


class Crowd:
    """An executor as the dispatcher sees it: how many runs there are, and how many of them are batch runs."""

    def __init__(self, runs: int, batches: int) -> None:
        self.runs = runs
        self.batches = batches

    def __len__(self) -> int:
        return self.runs


@pytest.fixture
async def dispatcher(redis_client):
    """One that executes; what it claims does not exist, so nothing is submitted."""
    nothing: Any = None
    dispatcher = Dispatcher(
        RunRepository(redis_client, lease=1.0), WorkQueue(redis_client), nothing, nothing, nothing, lease=1.0, executes=True
    )
    yield dispatcher
    await dispatcher.stop()


async def test_batch_runs_leave_room_for_others(dispatcher, redis_client):
    """With half of its room full of batch runs a process takes what somebody waits for, and leaves further batch runs announced."""
    crowd = Crowd(BATCH_CAPACITY, BATCH_CAPACITY)
    work = WorkQueue(redis_client)
    await work.prepare()
    await work.announce(RunRef("acme", "t1", "r1"), is_batch=True)
    await work.announce(RunRef("acme", "t2", "r2"))
    await dispatcher.start(cast(Executor, crowd))

    async def is_taken():
        return await redis_client.xlen(WORK) == 0

    await until(is_taken, 5)
    assert (dispatcher.takes_more(), dispatcher.takes_more(is_batch=True)) == (True, False)
    assert await redis_client.xlen(BATCH_WORK) == 1

    crowd.batches -= 1

    async def is_taken_too():
        return await redis_client.xlen(BATCH_WORK) == 0

    await until(is_taken_too, 5)
    crowd.runs = CAPACITY
    assert (dispatcher.takes_more(), dispatcher.takes_more(is_batch=True)) == (False, False)


async def test_what_waits_for_a_process_is_known_without_asking(dispatcher, redis_client):
    """Admission looks at numbers that are at most a second old."""
    work = WorkQueue(redis_client)
    await work.prepare()
    await dispatcher.start(cast(Executor, Crowd(CAPACITY, 0)))
    assert dispatcher.executing == CAPACITY
    await work.announce(RunRef("acme", "t1", "r1"), is_batch=True)
    await work.announce(RunRef("acme", "t2", "r2"), is_batch=True)
    await work.announce(RunRef("acme", "t3", "r3"))

    async def is_known():
        return dispatcher.announced == (1, 2)

    await until(is_known, 5)
