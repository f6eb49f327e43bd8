"""How long threads are kept: all their keys for the same time, set by whatever changes them."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.storage.redis.checkpoints import RedisSaver
from app.storage.redis.keys import LAPSING, ThreadKeys
from app.storage.redis.runs import Claim, RunRecord, RunRepository
from app.storage.redis.store import RedisStore
from app.storage.redis.thread_index import ThreadIndex
from app.storage.redis.threads import THREAD_TTL, Lifetime, ThreadRepository, new_thread
from app.storage.redis.work import ThreadRef
from app.threads.indexer import ThreadIndexer
from app.threads.reaper import ThreadReaper
from app.threads.service import ThreadService
from tests.support.waiting import until

TENANT, THREAD = "acme", "t"
OWN = 100.0
KEYS = ThreadKeys(TENANT, THREAD)
END = ("end", b"{}")


@pytest.fixture
def threads(redis_client):
    return ThreadRepository(redis_client)


@pytest.fixture
def runs(redis_client):
    return RunRepository(redis_client, lease=10.0)


@pytest.fixture
def saver(redis_client):
    return RedisSaver(redis_client, ttl=THREAD_TTL).bind(tenant=TENANT)


def a_run(run_id: str = "a", **changes: Any) -> RunRecord:
    now = datetime.now(UTC)
    return RunRecord(run_id, THREAD, "assistant", "graph", "pending", now, now, deadline_at=now + timedelta(hours=1), **changes)


async def checkpoint(saver, number=1):
    config: Any = {"configurable": {"thread_id": THREAD, "checkpoint_ns": ""}}
    body: Any = {"v": 4, "id": f"c{number}", "ts": "", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}
    await saver.aput(config, body, {}, {})


async def ttls(client) -> set[float]:
    """The times to live of all of the thread's keys but the lease, to the nearest ten seconds."""
    keys = [key for key in await client.keys(f"{TENANT}:*") if not key.endswith(b":lease")]
    return {round(await client.pttl(key) / 10_000) * 10.0 for key in keys}


async def began(threads, runs, saver, lifetime):
    """A thread with that time to live on which a run has written a checkpoint, and is still under way."""
    await threads.create(TENANT, new_thread(THREAD, {}, lifetime=lifetime))
    accepted = await runs.accept(TENANT, a_run(log_ttl=24 * 3600.0), create=None, claims="now")
    await runs.append(TENANT, a_run(), accepted.fence, [("values", b"{}")])
    await checkpoint(saver)
    return accepted.fence


@pytest.mark.parametrize(
    ("lifetime", "under_way", "asking", "resting"),
    [
        (None, THREAD_TTL, THREAD_TTL, THREAD_TTL),
        (Lifetime(OWN), THREAD_TTL, THREAD_TTL, OWN),
        (Lifetime(2 * THREAD_TTL), 2 * THREAD_TTL, 2 * THREAD_TTL, 2 * THREAD_TTL),
        (Lifetime(OWN, "keep_latest"), THREAD_TTL + OWN, THREAD_TTL + OWN, THREAD_TTL + OWN),
    ],
)
async def test_all_of_a_thread_is_kept_as_long_as_it_should(threads, runs, saver, redis_client, lifetime, under_way, asking, resting):
    """While a run is under way, while a question is open, and at rest: records, log, checkpoints and all."""
    fence = await began(threads, runs, saver, lifetime)
    await runs.accept(TENANT, a_run("b"), create=None, claims="queued")
    assert round(await redis_client.pttl(KEYS.thread()) / 1e4) * 10.0 == under_way
    await runs.finish(TENANT, a_run(), fence, status="success", thread_status="interrupted", event=END)
    claim = await runs.claim(TENANT, THREAD, "b")
    assert isinstance(claim, Claim)
    await runs.finish(TENANT, claim.run, claim.fence, status="success", thread_status="interrupted", event=END)
    assert round(await redis_client.pttl(KEYS.checkpoints()) / 1e4) * 10.0 == asking

    last = await runs.accept(TENANT, a_run("c"), create=None, claims="now")
    await checkpoint(saver, 2)
    await runs.finish(TENANT, a_run("c"), last.fence, status="success", thread_status="idle", event=END)

    logs = {await redis_client.pttl(KEYS.events(run_id)) for run_id in "abc"}
    assert all(ttl <= min(resting, 24 * 3600) * 1000 for ttl in logs)
    await redis_client.delete(*(KEYS.events(run_id) for run_id in "abc"))
    found = await ttls(redis_client)
    assert found == {resting} or (lifetime is None and found == {THREAD_TTL})


async def test_a_delayed_run_keeps_its_thread_until_it_has_begun_or_was_cancelled(threads, runs, redis_client):
    """Its turn comes long after the thread's own time."""
    await threads.create(TENANT, new_thread(THREAD, {}, lifetime=Lifetime(OWN)))
    await runs.accept(TENANT, a_run("a"), create=None, claims="later")
    await runs.accept(TENANT, a_run("b"), create=None, claims="later")
    assert await ttls(redis_client) == {THREAD_TTL}

    await runs.cancel(TENANT, THREAD, "a", "rollback")
    assert await redis_client.ttl(KEYS.thread()) > OWN
    assert [await runs.enqueue(TENANT, THREAD, "b") for _ in range(2)] == [True, True]
    claim = await runs.claim(TENANT, THREAD, "b")
    if not isinstance(claim, Claim):
        await runs.purged(TENANT, THREAD, ["a"])
        claim = await runs.claim(TENANT, THREAD, "b")
    await runs.finish(TENANT, a_run("b"), claim.fence, status="success", thread_status="idle", event=END)
    assert await redis_client.ttl(KEYS.thread()) <= OWN


async def test_a_webhook_that_nobody_has_taken_over_keeps_its_thread(threads, runs, redis_client):
    """The end of its run is told of, however short the thread's own time is; from then on that counts."""
    await threads.create(TENANT, new_thread(THREAD, {}, lifetime=Lifetime(OWN)))
    accepted = await runs.accept(TENANT, a_run(webhook="https://a.example"), create=None, claims="now")
    await runs.finish(TENANT, a_run(), accepted.fence, status="success", thread_status="idle", event=END)
    assert await redis_client.ttl(KEYS.outbox()) > OWN

    await runs.posted(TENANT, THREAD, ["a"])

    assert await redis_client.ttl(KEYS.thread()) <= OWN


async def test_a_thread_is_gone_with_everything_when_its_time_is_over(threads, runs, saver, redis_client):
    fence = await began(threads, runs, saver, Lifetime(0.2))
    await runs.finish(TENANT, a_run(), fence, status="success", thread_status="idle", event=END)

    async def is_gone():
        return not await redis_client.keys(f"{TENANT}:*")

    await until(is_gone, 5)
    assert await threads.get(TENANT, THREAD) is None


@pytest.mark.parametrize("strategy", ["delete", "keep_latest"])
async def test_a_time_to_live_that_is_set_later_counts_for_everything(threads, runs, saver, redis_client, strategy):
    """An edit by hand and a change of metadata refresh it like a run does."""
    wanted = OWN if strategy == "delete" else THREAD_TTL + OWN
    fence = await began(threads, runs, saver, None)
    await runs.finish(TENANT, a_run(), fence, status="success", thread_status="idle", event=END)
    await threads.merge(TENANT, THREAD, {}, Lifetime(OWN, strategy))
    await redis_client.delete(KEYS.events("a"))
    assert await ttls(redis_client) == {wanted}

    for key in await redis_client.keys(f"{TENANT}:*"):
        await redis_client.pexpire(key, 50_000)
    edit = await threads.hold(TENANT, THREAD, 10.0)
    await checkpoint(saver, 3)
    await threads.let_go(TENANT, THREAD, edit, "idle")
    assert await ttls(redis_client) == {wanted}


@pytest.fixture
async def care(redis_client, threads):
    """Reapers, any number of them."""
    index = ThreadIndex(redis_client)
    indexer = ThreadIndexer(index)
    states = ThreadService(threads, indexer, RedisSaver(redis_client, ttl=THREAD_TTL), RedisStore(redis_client), {}, "")
    return index, indexer, [ThreadReaper(index, indexer, states, lambda thread: None) for _ in range(3)]


async def is_due(client, index):
    """Let the thread's last use be longer ago than its own time, and the look at it be due."""
    for key in await client.keys(f"{TENANT}:*"):
        await client.pexpire(key, int(THREAD_TTL * 1000) - 1000)
    await client.zadd(LAPSING, {b'["acme","t"]': time.time() - 1})


async def test_older_checkpoints_go_when_it_is_due_and_only_then(threads, runs, saver, redis_client, care):
    """Once over many processes, not while a run is under way, and not again before the thread is used."""
    index, indexer, reapers = care
    fence = await began(threads, runs, saver, Lifetime(OWN, "keep_latest"))
    await checkpoint(saver, 2)
    await indexer.write([ThreadRef(TENANT, THREAD)])

    async def kept():
        return len([found async for found in saver.alist({"configurable": {"thread_id": THREAD}})])

    await is_due(redis_client, index)
    await asyncio.gather(*(reaper.look() for reaper in reapers))
    assert await kept() == 2, "a run was under way"
    await runs.finish(TENANT, a_run(), fence, status="success", thread_status="idle", event=END)
    await redis_client.zadd(LAPSING, {b'["acme","t"]': time.time() - 1})
    await asyncio.gather(*(reaper.look() for reaper in reapers))
    assert await kept() == 2, "it has just been used"
    await is_due(redis_client, index)
    await asyncio.gather(*(reaper.look() for reaper in reapers))
    assert await kept() == 1

    entry = await index.read(TENANT, THREAD)
    assert (entry.thins_in, round(entry.left - THREAD_TTL, -1)) == (None, 0)
    ((_, again),) = await redis_client.zrange(LAPSING, 0, -1, withscores=True)
    assert again > time.time() + THREAD_TTL - 60
    await threads.merge(TENANT, THREAD, {"a": 1})
    assert (await index.read(TENANT, THREAD)).thins_in > OWN - 10


async def test_what_has_expired_falls_out_of_the_index(threads, redis_client, care):
    _, indexer, reapers = care
    await threads.create(TENANT, new_thread(THREAD, {"a": 1}, lifetime=Lifetime(0.05)))
    await indexer.write([ThreadRef(TENANT, THREAD)])

    async def is_gone():
        return not await redis_client.exists(KEYS.thread())

    await until(is_gone, 5)
    await redis_client.zadd(LAPSING, {b'["acme","t"]': time.time() - 1})

    await reapers[0].look()

    assert await redis_client.keys("*") == []


async def test_the_sweep_of_a_reaper_writes_what_a_crash_left_out(threads, redis_client, care):
    index, _, reapers = care
    await threads.create(TENANT, new_thread(THREAD, {}))
    assert await reapers[0].sweep() == 1
    assert await index.sizes(TENANT, ["all"]) == [1]
    assert await reapers[1].sweep() == 0
