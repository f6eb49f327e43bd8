"""What crosses threads: announced work, delayed runs, watched threads, notices."""

from __future__ import annotations

import asyncio

import pytest

from app.storage.redis.connection import connect
from app.storage.redis.keys import NOTICES, OPEN, WORK, ThreadKeys
from app.storage.redis.work import RunRef, ThreadRef, WorkQueue
from tests.support.waiting import until

FORMS = ["", "?protocol=2", "?protocol=3", "?protocol=3&legacy_responses=False"]
ODD = ["", ":", "{t}", "a b", "ñandú", "%", "*", '"]']


def ref(number, tenant="acme"):
    return RunRef(tenant, f"t{number}", f"r{number}")


@pytest.fixture(params=FORMS)
async def work(request, shared_redis, redis_client):
    """The queue over every form in which answers come, since an address may choose it."""
    client = connect(shared_redis.url + request.param)
    queue = WorkQueue(client)
    await queue.prepare()
    yield queue
    await client.aclose()


async def test_what_is_announced_is_taken_once(work, redis_client):
    """Two takers share a hundred runs, none comes twice, and nothing stays behind in the stream."""
    announced = [ref(number) for number in range(100)]
    for run in announced:
        await work.announce(run)

    async def take(consumer):
        taken = []
        while batch := await work.take(consumer, 7, 0.05):
            taken += [run for run, _ in batch]
        return taken

    one, other = await asyncio.gather(take("one"), take("other"))
    assert sorted([*one, *other], key=str) == sorted(announced, key=str)
    assert (bool(one), bool(other)) == (True, True)
    assert await redis_client.xlen(WORK) == 0


async def test_a_taker_that_waits_gets_what_is_announced_meanwhile(work, redis_client):
    """It need not ask again."""
    waiting = asyncio.create_task(work.take("one", 7, 1.5))

    async def is_blocked():
        return (await redis_client.info("clients"))["blocked_clients"]

    await until(is_blocked, 1)
    await work.announce(ref(1))

    assert await waiting == [(ref(1), False)]


@pytest.mark.parametrize("block", [0.0, 0.01])
async def test_a_taker_is_sent_away_when_there_is_nothing(work, block):
    """Also one that does not want to wait at all."""
    async with asyncio.timeout(1):
        assert await work.take("one", 7, block) == []


async def test_what_was_announced_before_there_was_a_taker_is_not_lost(shared_redis, redis_client):
    """Gateways may start before any worker; preparing twice changes nothing."""
    work = WorkQueue(redis_client)
    await work.announce(ref(1))
    await work.prepare()
    await work.prepare()

    assert await work.take("one", 7, 0.05) == [(ref(1), False)]


async def test_batch_runs_come_after_all_others_and_only_to_whom_wants_them(work, redis_client):
    """Whoever has no more room for batch runs leaves them to others, and nothing waits behind them."""
    await work.announce(ref(1), is_batch=True)
    await work.announce(ref(2))
    await work.announce(ref(3))
    assert await work.announced() == (2, 1)

    assert await work.take("one", 7, 0.05, with_batch=False) == [(ref(2), False), (ref(3), False)]
    assert await work.take("one", 7, 0.05, with_batch=False) == []
    await work.announce(ref(4))

    assert await work.take("one", 7, 0.05) == [(ref(4), False), (ref(1), True)]
    assert await work.announced() == (0, 0)


async def test_a_taker_that_leaves_is_forgotten(work, redis_client):
    """Processes come and go; their names do not pile up."""
    await work.announce(ref(1))
    await work.take("one", 7, 0.05)
    await work.leave("one")
    await work.leave("one")

    assert await redis_client.xinfo_consumers(WORK, "executors") == []


async def test_delayed_runs_come_at_their_time_and_in_its_order(work):
    """None before, each until somebody says that it is taken care of; a second time replaces the first."""
    await work.delay(ref(1), 30.0)
    await work.delay(ref(2), 10.0)
    await work.delay(ref(3), 20.0)
    await work.delay(ref(1), 15.0)

    assert await work.due(9.9) == []
    assert await work.due(15.0) == [ref(2), ref(1)]
    await work.undelay(ref(2))
    await work.undelay(ref(2))
    assert await work.due(100.0) == [ref(1), ref(3)]


async def test_a_newer_wish_to_look_outlives_an_older_unwatch(work):
    """Between the look and its conclusion another run may have been accepted."""
    thread = ThreadRef("acme", "t")
    await work.watch(thread, 10.0)
    await work.watch(thread, 20.0)

    await work.unwatch(thread, 15.0)
    assert await work.to_look_at(20.0) == [thread]
    await work.unwatch(thread, 20.0)
    assert await work.to_look_at(99.0) == []


async def test_threads_are_looked_at_when_it_is_time(work):
    """The most urgent first, of all tenants; a tenant asks for its own only."""
    a, b = ThreadRef("acme", "t"), ThreadRef("globex", "t")
    await work.watch(a, 20.0)
    await work.watch(b, 10.0)

    assert [await work.to_look_at(now) for now in (9.0, 10.0, 20.0)] == [[], [b], [b, a]]
    assert (await work.open_threads("acme"), await work.open_threads("nobody")) == ([a], [])


async def test_a_thread_that_nobody_watches_is_found(work, redis_client):
    """Whatever its id is made of; one that is watched keeps its time."""
    for thread_id in ODD:
        await redis_client.rpush(ThreadKeys("ac:me", thread_id).queue(), "r")
        await redis_client.set(ThreadKeys("ac:me", thread_id).lease(), "1")
    await work.watch(ThreadRef("ac:me", ODD[0]), 1.0)

    assert await work.find_unwatched(50.0, 100.0) == len(ODD) - 1
    assert await work.find_unwatched(60.0, 100.0) == 0
    found = await work.to_look_at(50.0)
    assert found[0] == ThreadRef("ac:me", ODD[0])
    assert {thread.thread_id for thread in found} == set(ODD)
    assert {thread.tenant for thread in found} == {"ac:me"}
    assert await redis_client.zcard(OPEN) == len(ODD)


async def test_notices_reach_every_process_that_listens(work, redis_client):
    """In their order; whoever listens is also woken without news, so that it can stop."""

    async def hear():
        heard = []
        async for run_id in work.notices():
            heard += [run_id] if run_id else []
            if len(heard) == 2:
                return heard
        return None

    listeners = [asyncio.create_task(hear()) for _ in range(2)]

    async def are_listening():
        return dict(await redis_client.pubsub_numsub(NOTICES)).get(NOTICES.encode(), 0) == 2

    await until(are_listening, 3)
    await work.notify(["a", "b"])
    async with asyncio.timeout(3):
        assert await asyncio.gather(*listeners) == [["a", "b"], ["a", "b"]]


async def test_a_listener_without_news_is_woken(work):
    """Within about a second."""
    async with asyncio.timeout(3):
        async for run_id in work.notices():
            assert run_id is None
            break


async def test_a_look_that_was_put_off_by_a_clock_set_back_is_had_in_time(work, redis_client):
    """A watch of a thread with a queue is never later than the sweep allows; earlier ones stay, and nobody is added without a queue."""
    now, sweep, hour = 1_000.0, 60.0, 3_600.0
    early, late, idle = ThreadRef("acme", "early"), ThreadRef("acme", "late"), ThreadRef("acme", "idle")
    for thread in (early, late):
        await redis_client.rpush(ThreadKeys(thread.tenant, thread.thread_id).queue(), "r")
    await work.watch(early, now + 10.0)
    for thread in (late, idle):
        await work.watch(thread, now + hour)  # asked for just before the clock was set back by an hour

    assert await work.find_unwatched(now, now + sweep) == 0
    assert await work.to_look_at(now + sweep) == [early, late]
    assert await work.to_look_at(now + 10.0) == [early]
