"""Breakers of several processes on one real Redis: what moves one moves all, and without Redis each goes on alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from app.errors import NotFound
from app.guards.breakers import BreakerChanges, FleetBreakers
from app.storage.errors import StorageUnavailable
from app.storage.redis.breakers import BOARD_TTL, KEPT, Board, BreakerBoard, Posting
from app.storage.redis.connection import connect
from app.storage.redis.keys import BREAKERS
from resilience.breaker import BreakerSettings, BreakerState
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import CircuitOpen, TransientError
from resilience.events import ResilienceEvent
from resilience.registry import PolicyRegistry, ResilienceSettings
from resilience.testing import FakeClock, fail_then_return
from tests.support.waiting import until

MODEL, BILLING = "model:openai/a", "specialist:billing_support"
PROMISE = 1.0 if os.environ.get("CHAOS") == "full" else 3.0
"""Longest until every process knows, seconds: design D7 says one; machines of CI are shared."""


class Process:
    """A registry as each process has one, and its view of the fleet."""

    def __init__(self, client: Redis, name: str, clock: FakeClock) -> None:
        self.client = client
        self.clock = clock
        self.events: list[ResilienceEvent] = []
        changes = BreakerChanges(self.clock)
        settings = ResilienceSettings(breakers={"model": BreakerSettings(jitter=0.0)})
        self.policies = PolicyRegistry(settings, clock=self.clock, listeners=[changes, self.events.append])
        self.fleet = FleetBreakers(self.policies, changes, BreakerBoard(client, name))

    def state(self, dependency: str = MODEL) -> BreakerState:
        return self.policies.breaker(dependency).state

    async def recover(self) -> None:
        """Let the open time pass, and three probes succeed."""
        self.clock.advance(self.policies.breaker(MODEL).retry_in())
        await self.succeed()

    async def fail(self, times: int = 5) -> None:
        ctx = CallContext(MODEL, Deadline.after(60.0))
        for _ in range(times):
            with pytest.raises(TransientError):
                await self.policies.breaker(MODEL).execute(fail_then_return(1, TransientError("503"), ""), ctx)

    async def succeed(self, times: int = 3) -> None:
        ctx = CallContext(MODEL, Deadline.after(60.0))
        for _ in range(times):
            await self.policies.breaker(MODEL).execute(fail_then_return(0, Exception(), ""), ctx)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Process]:
        task = asyncio.create_task(self.fleet.run())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def start(redis_client: Redis) -> Callable[..., Process]:
    clock = FakeClock()
    return lambda name: Process(redis_client, name, clock)


async def told(*processes: Process) -> None:
    """Each exchanges news, twice: the first may speak after the second has listened."""
    for process in processes * 2:

        async def is_told(process: Process = process) -> bool:
            with suppress(StorageUnavailable):  # a connection that was lost is noticed by the first who uses it
                await process.fleet.exchange()
                return True
            return False

        await until(is_told, 10)


def posting(state: BreakerState, **more: Any) -> Posting:
    given = {"age": 0.0, "open_for": 30.0 if state is BreakerState.OPEN else 0.0, "openings": 1, "why": "test", "by_hand": False}
    return Posting(MODEL, state, **{**given, **more})


# --- in step ------------------------------------------------------------------------------------------------------------


async def test_an_opening_reaches_the_others_within_a_second(start) -> None:
    """By the tasks that run in every process; the other refuses without having failed once, and says who told it."""
    async with start("a").running() as first, start("b").running() as second:
        second.policies.breaker(MODEL)
        await asyncio.sleep(0)
        await first.fail()
        begun = time.monotonic()

        async def is_open() -> bool:
            return second.state() is BreakerState.OPEN

        await until(is_open, 10)
        seconds = time.monotonic() - begun

    assert seconds <= PROMISE
    snapshot = second.policies.breaker(MODEL).snapshot()
    assert (snapshot.by, snapshot.why, snapshot.openings, snapshot.recent_calls) == ("fleet", "dependency_unavailable", 1, 0)
    assert 26 < snapshot.retry_in <= 30
    assert second.events[0].fields["by"] == "fleet"


async def test_a_closing_by_probes_reaches_the_others(start) -> None:
    """The probes of one process are those of all."""
    first, second = start("a"), start("b")
    await first.fail()
    await second.fail()
    await first.recover()
    assert first.state() is BreakerState.CLOSED

    await told(first, second)

    assert second.state() is BreakerState.CLOSED
    assert second.events[-1].fields["why"] == "probes_succeeded"


async def test_a_failed_probe_makes_the_others_wait_too(start) -> None:
    """They take over the longer open time, and with it the growth."""
    first, second = start("a"), start("b")
    await second.fail()
    await first.fail()
    for _ in range(3):
        first.clock.advance(first.policies.breaker(MODEL).retry_in())
        await first.fail(1)

    await told(first, second)

    assert second.policies.breaker(MODEL).snapshot().openings == 4
    assert 230 < second.policies.breaker(MODEL).retry_in() <= 240


async def test_a_breaker_that_a_process_never_needed_is_made(start) -> None:
    """A process that starts while a model is out does not ask it first."""
    first, second = start("a"), start("b")
    await first.fail()

    await told(first, second)

    assert [breaker.dependency for breaker in second.policies.breakers()] == [MODEL]
    assert second.state() is BreakerState.OPEN


async def test_deciding_asks_nobody(start, redis_client: Redis) -> None:
    """Admitted, failed, refused, moved by hand: no command reaches Redis before the task off the request path has its turn."""
    process = start("a")

    async def commands() -> int:
        return int((await redis_client.info("stats"))["total_commands_processed"])

    before = await commands()
    await process.succeed(100)
    await process.fail()
    for _ in range(100):
        with pytest.raises(CircuitOpen):
            await process.succeed(1)
    process.policies.breaker(MODEL).isolate()

    assert await commands() - before == 1, "the question itself"


async def test_a_process_does_not_follow_itself(start) -> None:
    """What it has told comes back from the board and changes nothing, however often it is read."""
    first = start("a")
    await first.fail()

    await told(first, first)

    assert len(first.events) == 1


async def test_half_open_is_everybodys_own(start) -> None:
    """Nobody hears of a probe, only of what came of it."""
    first, second = start("a"), start("b")
    second.policies.breaker(MODEL)
    await first.fail()
    first.clock.advance(30)
    await first.succeed(1)
    assert first.state() is BreakerState.HALF_OPEN

    await told(first, second)

    assert second.state() is BreakerState.CLOSED


async def test_an_opening_that_is_over_opens_nobody(start) -> None:
    """A process that starts afterwards has no reason to wait."""
    process = start("a")
    await BreakerBoard(process.client, "b").exchange([posting(BreakerState.OPEN, age=30.0, open_for=0.0)])

    await process.fleet.exchange()

    assert process.policies.breakers() == ()


# --- by hand ------------------------------------------------------------------------------------------------------------


async def test_isolating_and_closing_by_hand_is_fleet_wide(start) -> None:
    """On whichever process it is done."""
    first, second = start("a"), start("b")
    for process in (first, second):
        process.policies.breaker(BILLING)

    snapshot, is_fleet_wide = await first.fleet.move(BILLING, BreakerState.ISOLATED)
    assert (snapshot.state, snapshot.by, is_fleet_wide) == (BreakerState.ISOLATED, "hand", True)
    await second.fleet.exchange()
    assert second.state(BILLING) is BreakerState.ISOLATED

    snapshot, is_fleet_wide = await second.fleet.move(BILLING, BreakerState.CLOSED)
    assert (snapshot.state, is_fleet_wide) == (BreakerState.CLOSED, True)
    await first.fleet.exchange()
    assert first.state(BILLING) is BreakerState.CLOSED


async def test_an_isolation_survives_the_restart_of_every_process(start) -> None:
    """It is on the board, and a new process reads the board before it serves."""
    first = start("a")
    first.policies.breaker(BILLING)
    await first.fleet.move(BILLING, BreakerState.ISOLATED)

    restarted = start("a2")
    await restarted.fleet.exchange()

    assert restarted.state(BILLING) is BreakerState.ISOLATED


async def test_no_rule_ends_an_isolation(start) -> None:
    """A process that has not heard of it yet opens and closes by its rules, then follows the hand."""
    first, second = start("a"), start("b")
    first.policies.breaker(MODEL)
    await first.fleet.move(MODEL, BreakerState.ISOLATED)
    await second.fail()
    await second.recover()

    await told(second, first)

    assert (first.state(), second.state()) == (BreakerState.ISOLATED, BreakerState.ISOLATED)


async def test_closing_what_is_closed_here_closes_it_elsewhere(start) -> None:
    """A process that has not read the board yet still passes the operator's word on."""
    first, second = start("a"), start("b")
    for process in (first, second):
        process.policies.breaker(BILLING)
    await first.fleet.move(BILLING, BreakerState.ISOLATED)

    await second.fleet.move(BILLING, BreakerState.CLOSED)
    await first.fleet.exchange()

    assert (first.state(BILLING), second.state(BILLING)) == (BreakerState.CLOSED, BreakerState.CLOSED)


async def test_an_unknown_breaker_cannot_be_moved(start) -> None:
    """And the board hears nothing of it."""
    process = start("a")

    with pytest.raises(NotFound) as caught:
        await process.fleet.move("model:nobody", BreakerState.ISOLATED)

    assert caught.value.code == "breaker_not_found"
    assert (await BreakerBoard(process.client, "x").exchange([])).notices == ()


# --- without Redis ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def cut_off(own_redis) -> AsyncIterator[tuple[Any, Process, Process]]:
    """Two processes on a Redis of their own that the test may end; it comes back empty."""
    clients = connect(own_redis.url), connect(own_redis.url)
    clock = FakeClock()
    yield own_redis, Process(clients[0], "a", clock), Process(clients[1], "b", clock)
    for client in clients:
        await client.aclose()


async def test_without_redis_a_process_is_on_its_own_and_says_so(cut_off) -> None:
    """Breakers work, operators are told that the fleet does not know, and the task goes on; back again, all is told."""
    redis, first, second = cut_off
    for process in (first, second):
        process.policies.breaker(BILLING)
    async with first.running(), second.running():
        redis.kill()
        await first.fail()
        snapshot, is_fleet_wide = await first.fleet.move(BILLING, BreakerState.ISOLATED)
        assert (first.state(), snapshot.state, is_fleet_wide) == (BreakerState.OPEN, BreakerState.ISOLATED, False)
        assert second.state() is BreakerState.CLOSED
        with pytest.raises(StorageUnavailable):
            await second.fleet.exchange()

        redis.start()

        async def is_isolated() -> bool:
            return second.state(BILLING) is BreakerState.ISOLATED

        await until(is_isolated, 10)


async def test_what_a_lost_board_held_is_told_again(cut_off) -> None:
    """A Redis that forgot everything learns the isolation from those who remember, and so does a new process."""
    redis, first, second = cut_off
    first.policies.breaker(BILLING)
    await first.fleet.move(BILLING, BreakerState.ISOLATED)
    await second.fleet.exchange()
    redis.kill()
    redis.start()

    await told(second)
    newcomer = Process(first.client, "c", first.clock)
    await told(newcomer)

    assert newcomer.state(BILLING) is BreakerState.ISOLATED


async def test_a_lost_board_that_others_have_begun_anew_is_noticed(cut_off) -> None:
    """What was on the old one and is not over is put on the new one."""
    redis, first, second = cut_off
    second.policies.breaker(BILLING)
    await second.fleet.move(BILLING, BreakerState.ISOLATED)
    redis.kill()
    redis.start()
    await first.fail()
    await told(first)
    assert first.policies.breakers()[0].dependency == MODEL

    await told(second, first)

    assert first.state(BILLING) is BreakerState.ISOLATED
    assert second.state() is BreakerState.OPEN


async def test_after_an_outage_the_newest_holds(cut_off) -> None:
    """A closing of long ago does not undo an opening that came after it, whoever is back first."""
    redis, first, second = cut_off
    redis.kill()
    await first.fail()
    await first.recover()
    assert first.state() is BreakerState.CLOSED
    first.clock.advance(5)
    await second.fail()
    redis.start()

    await told(second, first)

    assert (first.state(), second.state()) == (BreakerState.OPEN, BreakerState.OPEN)


async def test_a_hand_that_closed_during_an_outage_wins_over_the_old_isolation(cut_off) -> None:
    """Also if the breaker has opened by its rules since: the isolation must not come back."""
    redis, first, second = cut_off
    await BreakerBoard(first.client, "c").exchange([posting(BreakerState.ISOLATED, age=60.0, by_hand=True)])
    await told(first, second)
    before = await second.client.dump(BREAKERS)
    redis.kill()
    _, is_fleet_wide = await first.fleet.move(MODEL, BreakerState.CLOSED)
    assert not is_fleet_wide
    await first.fail()
    first.clock.advance(30)
    assert first.policies.breaker(MODEL).is_admitting
    redis.start()
    async with connect(redis.url) as client:  # the board as it would be had only the network failed
        await client.restore(BREAKERS, 0, before)

    await told(first, second)

    assert second.state() is BreakerState.CLOSED
    assert first.policies.breaker(MODEL).is_admitting


# --- the board ----------------------------------------------------------------------------------------------------------


async def test_the_board_expires_unless_somebody_looks_at_it(redis_client: Redis) -> None:
    """The time is set with the first entry and renewed at half of it, so that reading is not writing."""
    board = BreakerBoard(redis_client, "a")
    await board.exchange([])
    assert await redis_client.exists(BREAKERS) == 0, "reading makes nothing"

    await board.exchange([posting(BreakerState.ISOLATED, by_hand=True)])
    assert BOARD_TTL - 10 <= await redis_client.ttl(BREAKERS) <= BOARD_TTL
    await redis_client.expire(BREAKERS, int(BOARD_TTL * 0.6))
    await board.exchange([])
    assert await redis_client.ttl(BREAKERS) <= BOARD_TTL * 0.6
    await redis_client.expire(BREAKERS, int(BOARD_TTL * 0.4))
    await board.exchange([])
    assert await redis_client.ttl(BREAKERS) > BOARD_TTL - 10


async def test_what_is_long_over_is_taken_off(redis_client: Redis) -> None:
    """A breaker of a model that is no longer used leaves the board; one that is isolated stays."""
    board = BreakerBoard(redis_client, "a")
    await board.exchange([posting(BreakerState.OPEN)])
    entry = orjson.loads(await redis_client.hget(BREAKERS, MODEL))
    old = {**entry, "until": str(int(entry["until"]) - int((KEPT + 60) * 1000))}
    await redis_client.hset(BREAKERS, mapping={"model:old": orjson.dumps(old), "model:kept": orjson.dumps({**old, "state": "isolated"})})

    await board.exchange([])
    assert await redis_client.hexists(BREAKERS, "model:old"), "reading removes nothing"
    await board.exchange([posting(BreakerState.OPEN)])

    assert {notice.dependency for notice in (await board.exchange([])).notices} == {"model:kept", MODEL}


async def test_what_another_version_wrote_is_left_alone(redis_client: Redis) -> None:
    """During a deployment old and new processes share the board."""
    board = BreakerBoard(redis_client, "a")
    await board.exchange([posting(BreakerState.OPEN)])
    await redis_client.hset(BREAKERS, mapping={"model:x": b'{"state":"quarantined","at":"1","until":"99999999999999"}', "model:y": b"[1]"})

    found: Board = await board.exchange([])
    assert [notice.dependency for notice in found.notices] == [MODEL]

    for odd in (b"[1]", b"not even JSON", b"{}"):
        await redis_client.hset(BREAKERS, MODEL, odd)
        found = await board.exchange([posting(BreakerState.CLOSED)])
        assert [(notice.dependency, notice.state) for notice in found.notices] == [(MODEL, "closed")]


@pytest.mark.parametrize(
    ("there", "new", "wins"),
    [
        ((BreakerState.OPEN, 0.0, False), (BreakerState.CLOSED, 0.0, False), True),
        ((BreakerState.OPEN, 0.0, False), (BreakerState.CLOSED, 5.0, False), False),
        ((BreakerState.OPEN, 0.0, False), (BreakerState.ISOLATED, 5.0, True), True),
        ((BreakerState.CLOSED, 0.0, True), (BreakerState.ISOLATED, 5.0, True), False),
        ((BreakerState.ISOLATED, 60.0, True), (BreakerState.OPEN, 0.0, False), False),
        ((BreakerState.ISOLATED, 60.0, True), (BreakerState.CLOSED, 0.0, False), False),
        ((BreakerState.ISOLATED, 60.0, True), (BreakerState.CLOSED, 0.0, True), True),
        ((BreakerState.ISOLATED, 0.0, True), (BreakerState.CLOSED, 60.0, True), False),
        ((BreakerState.CLOSED, 0.0, True), (BreakerState.OPEN, 0.0, False), True),
    ],
    ids=str,
)
async def test_who_wins_on_the_board(redis_client: Redis, there, new, wins: bool) -> None:
    """State, age in seconds and whether by hand: the newer wins, but a hand's isolation only loses against a hand."""
    first, second = BreakerBoard(redis_client, "a"), BreakerBoard(redis_client, "b")
    state, age, by_hand = there
    await first.exchange([posting(state, age=age, by_hand=by_hand)])
    state, age, by_hand = new

    found = await second.exchange([posting(state, age=age, by_hand=by_hand)])

    assert found.notices[0].process == ("b" if wins else "a")


async def test_a_server_clock_that_is_set_back_stops_nobody(redis_client: Redis) -> None:
    """What was written in the future is older than everything."""
    board = BreakerBoard(redis_client, "a")
    await board.exchange([posting(BreakerState.OPEN)])
    entry = orjson.loads(await redis_client.hget(BREAKERS, MODEL))
    future = str(int(entry["at"]) + 3_600_000)
    await redis_client.hset(BREAKERS, MODEL, orjson.dumps({**entry, "at": future, "until": future}))

    found = await BreakerBoard(redis_client, "b").exchange([posting(BreakerState.CLOSED)])

    assert found.notices[0].process == "b"


async def test_the_task_survives_what_it_does_not_expect(redis_client: Redis, start) -> None:
    """A board that is no hash is an error of every exchange; once it is gone, news travels again."""
    await redis_client.set(BREAKERS, "no hash")
    async with start("a").running() as first, start("b").running() as second:
        await first.fail()

        async def has_failed() -> bool:
            return first.fleet._is_cut_off

        await until(has_failed, 10)
        await redis_client.delete(BREAKERS)

        async def is_open() -> bool:
            return second.state() is BreakerState.OPEN

        await until(is_open, 10)
