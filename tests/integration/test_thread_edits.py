"""Who edits a thread by hand holds it like a run does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.storage.errors import LeaseLost
from app.storage.redis.keys import ThreadKeys
from app.storage.redis.runs import Claim, RunRecord, RunRepository
from app.storage.redis.threads import ThreadMissing, ThreadOccupied, ThreadRepository, new_thread

TENANT, THREAD = "acme", "t"


@pytest.fixture
def threads(redis_client):
    return ThreadRepository(redis_client)


@pytest.fixture
def runs(redis_client):
    return RunRepository(redis_client, lease=10.0)


def a_run(run_id):
    now = datetime.now(UTC)
    return RunRecord(run_id, THREAD, "assistant", "graph", "pending", now, now, deadline_at=now + timedelta(hours=1))


async def test_a_run_that_comes_during_an_edit_begins_after_it(threads, runs):
    await threads.create(TENANT, new_thread(THREAD, {}))
    edit = await threads.hold(TENANT, THREAD, 10.0)
    accepted = await runs.accept(TENANT, a_run("a"), create=None, claims="now")
    assert accepted.fence is None
    assert await runs.claim(TENANT, THREAD, "a") == ("leased",)

    assert await threads.let_go(TENANT, THREAD, edit, "idle") is True

    assert isinstance(await runs.claim(TENANT, THREAD, "a"), Claim)
    assert (await threads.get(TENANT, THREAD)).status == "busy"


async def test_a_thread_is_edited_by_one_at_a_time_and_not_during_a_run(threads, runs):
    await threads.create(TENANT, new_thread(THREAD, {}))
    edit = await threads.hold(TENANT, THREAD, 10.0)
    with pytest.raises(ThreadOccupied):
        await threads.hold(TENANT, THREAD, 10.0)
    assert await threads.let_go(TENANT, THREAD, edit) is False
    await runs.accept(TENANT, a_run("a"), create=None, claims="queued")
    with pytest.raises(ThreadOccupied):
        await threads.hold(TENANT, THREAD, 10.0)
    with pytest.raises(ThreadMissing):
        await threads.hold(TENANT, "another", 10.0)


async def test_an_edit_that_takes_too_long_has_no_say_any_more(threads, redis_client):
    await threads.create(TENANT, new_thread(THREAD, {}))
    edit = await threads.hold(TENANT, THREAD, 10.0)
    await redis_client.delete(ThreadKeys(TENANT, THREAD).lease())  # as its end does
    with pytest.raises(LeaseLost):
        await threads.let_go(TENANT, THREAD, edit, "interrupted", {"task": []})
    assert (await threads.get(TENANT, THREAD)).status == "idle"


async def test_a_deleted_thread_leaves_no_key(threads, runs, redis_client):
    """Not even those of a run that still executes; what it writes later is refused."""
    accepted = await runs.accept(TENANT, a_run("a"), create=new_thread(THREAD, {}), claims="now")
    await runs.append(TENANT, a_run("a"), accepted.fence, [("custom", b"1")])

    assert await threads.delete(TENANT, THREAD) is True

    assert await redis_client.keys("acme:*") == []
    with pytest.raises(LeaseLost):
        await runs.append(TENANT, a_run("a"), accepted.fence, [("custom", b"2")])
    assert await threads.delete(TENANT, THREAD) is False


async def test_two_who_merge_at_once_both_succeed(threads):
    await threads.create(TENANT, new_thread(THREAD, {"a": 0}))
    await asyncio.gather(*(threads.merge(TENANT, THREAD, {f"k{i}": i}) for i in range(20)))
    assert (await threads.get(TENANT, THREAD)).metadata == {"a": 0, **{f"k{i}": i for i in range(20)}}
