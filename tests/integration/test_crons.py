"""Crons on a real Redis and the real acceptance of runs: each tick starts one run, whatever dies, however many processes look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from app.api.deps import Services
from app.bootstrap.running import running
from app.crons import service as service_module
from app.crons import ticker as ticker_module
from app.crons.service import CronService, CronSpec
from app.crons.ticker import CronTicker
from app.errors import AlreadyExists, InvalidInput, NotFound
from app.guards.rate_limits import Taken
from app.runs.request import RunRequest
from app.settings import Settings
from app.storage.errors import StorageUnavailable
from app.storage.redis.crons import ENDED_TTL, CronRecord, CronRepository, DueCron
from app.storage.redis.keys import CRONS_DUE, CronKeys
from resilience.context import Priority
from tests.support.waiting import until

LEASE = 30.0
START = datetime(2100, 1, 1, 12, 0, 30, tzinfo=UTC)  # the services' own tickers live long before that
EVERY_MINUTE = "* * * * *"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> float:
        return self.at.timestamp()

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class NoAllowance:
    """A limit of requests that is used up."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.is_allowed = False

    async def spend(self, tenant: str, key_id: str) -> Taken:
        self.asked.append((tenant, key_id))
        return Taken(self.is_allowed, 0, 1.0, 1.0)


class DyingRepository(CronRepository):
    """That of a process that dies before it can say that a tick is done."""

    async def settle(self, claimed: DueCron, **how: Any) -> bool:
        raise StorageUnavailable("died")


@dataclass
class Process:
    """A process of the fleet, as far as crons go."""

    services: Services
    crons: CronRepository
    service: CronService
    ticker: CronTicker


Start = Callable[..., Any]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def start(redis_url: str, redis_client: Redis, clock: Clock) -> AsyncIterator[Start]:
    """Starts a process: `await start()`."""
    async with AsyncExitStack() as stack:

        async def process(limit: Any = None, repository: type[CronRepository] = CronRepository) -> Process:
            services = await stack.enter_async_context(running(Settings.load({"REDIS_URL": redis_url, "CONFORMANCE_GRAPH": "true"})))
            crons = repository(redis_client, lease=LEASE, now=clock)
            service = CronService(crons, services.runs, services.threads, now=clock)
            return Process(services, crons, service, CronTicker(crons, services.runs, services.threads, limit, now=clock))

        yield process


def spec(schedule: str = EVERY_MINUTE, thread_id: str | None = None, **changes: Any) -> CronSpec:
    request = RunRequest("conformance", dict(HELLO), is_background=True, priority=Priority.BATCH, metadata={"by": "test"})
    run = {name: changes.pop(name) for name in list(changes) if name in RunRequest.__slots__ and name != "metadata"}
    how = None if thread_id else "delete"
    plain = CronSpec(thread_id, schedule, None, None, True, how, {}, {"input": HELLO}, replace(request, **run))
    return replace(plain, **changes)


async def ticks(client: Redis) -> list[str]:
    """The ticks of all runs there are, sorted: hour and minute."""
    found = []
    async for key in client.scan_iter(match="*:run:*", count=1000):
        metadata = orjson.loads(await client.hget(key, "metadata") or b"{}")  # type: ignore[misc]
        found += [metadata["cron_tick"][11:16]] if "cron_tick" in metadata else []
    return sorted(found)


async def new_thread(process: Process) -> str:
    thread = await process.services.threads.create("acme", None, {}, reuse=False)
    return thread.thread_id


async def known(process: Process, cron: CronRecord) -> CronRecord:
    found = await process.crons.get("acme", cron.cron_id)
    assert found is not None
    return found


# --- once


async def test_each_tick_starts_one_run_over_two_processes(start: Start, redis_client: Redis, clock: Clock) -> None:
    """With a thread and without; the run says which cron and which tick it is of."""
    one, other = await start(), await start()
    thread_id = await new_thread(one)
    with_thread = await one.service.create("acme", "", spec(thread_id=thread_id))
    await other.service.create("acme", "", spec())
    for _ in range(6):
        clock.advance(60)
        await asyncio.gather(*(process.ticker.look() for process in (one, other, one, other)))

    expected = [f"12:{minute:02}" for minute in range(1, 7)]
    assert await ticks(redis_client) == sorted(expected * 2)
    runs = await one.services.runs.of_thread("acme", thread_id, limit=100, offset=0, status=None)
    assert len(runs) == 6
    assert {run.metadata["cron_id"] for run in runs} == {with_thread.cron_id}
    assert {run.metadata["by"] for run in runs} == {"test"}
    assert {run.kwargs["priority"] for run in runs} == {Priority.BATCH}


async def test_nothing_is_started_before_its_time(start: Start, redis_client: Redis, clock: Clock) -> None:
    process = await start()
    await process.service.create("acme", "", spec())
    clock.advance(29)

    assert await process.ticker.look() == 0
    clock.advance(1)
    assert await process.ticker.look() == 1
    assert await process.ticker.look() == 0
    assert await ticks(redis_client) == ["12:01"]


async def test_a_process_that_dies_before_acceptance_does_not_lose_the_tick(start: Start, redis_client: Redis, clock: Clock) -> None:
    """Its claim runs out, and another process starts that tick."""
    process = await start()
    await process.service.create("acme", "", spec())
    clock.advance(30)
    assert len(await process.crons.claim(limit=10)) == 1  # and then nothing more is heard of it
    assert await process.ticker.look() == 0
    clock.advance(LEASE + 1)

    assert await process.ticker.look() == 1
    assert await ticks(redis_client) == ["12:01"]


async def test_a_process_that_dies_after_acceptance_does_not_double_the_tick(start: Start, redis_client: Redis, clock: Clock) -> None:
    """What is claimed again is the same run; the cron goes on from there."""
    dying, process = await start(repository=DyingRepository), await start()
    cron = await process.service.create("acme", "", spec())
    clock.advance(30)
    with pytest.raises(StorageUnavailable):
        await dying.ticker.look()
    assert await ticks(redis_client) == ["12:01"]
    clock.advance(LEASE + 1)

    assert await process.ticker.look() == 1
    assert await ticks(redis_client) == ["12:01"]
    assert (await known(process, cron)).tick == START.replace(minute=2, second=0)


async def test_a_run_that_was_deleted_meanwhile_is_not_started_again(start: Start, redis_client: Redis, clock: Clock) -> None:
    dying, process = await start(repository=DyingRepository), await start()
    thread_id = await new_thread(process)
    await process.service.create("acme", "", spec(thread_id=thread_id))
    clock.advance(30)
    with pytest.raises(StorageUnavailable):
        await dying.ticker.look()
    [run] = await process.services.runs.of_thread("acme", thread_id, limit=10, offset=0, status=None)
    await process.services.runs.outcome("acme", run)
    await process.services.runs.delete("acme", thread_id, run.run_id)
    clock.advance(LEASE + 1)

    assert await process.ticker.look() == 1
    assert await ticks(redis_client) == []


async def test_missed_ticks_are_made_up_for_by_one_run(start: Start, redis_client: Redis, clock: Clock) -> None:
    """However long nobody ticked; the next one is the next time from now on."""
    process = await start()
    cron = await process.service.create("acme", "", spec())
    clock.advance(3600)
    await process.ticker.look()
    await process.ticker.look()

    assert await ticks(redis_client) == ["12:01"]
    assert (await known(process, cron)).tick == START.replace(hour=13, minute=1, second=0)


async def test_a_tick_is_a_run_like_any_other(start: Start, redis_client: Redis, clock: Clock) -> None:
    """What its creator asked for is what is executed: the same as if it had been asked for directly."""
    process = await start()
    thread_id = await new_thread(process)
    wishes: dict[str, Any] = {
        "stream_mode": ("updates", "custom"),
        "stream_subgraphs": True,
        "stream_resumable": True,
        "interrupt_before": ("echo",),
        "interrupt_after": "*",
        "durability": "sync",
        "tags": ("nightly",),
        "recursion_limit": 7,
        "webhook": "https://hooks.example.com/capataz",
        "multitask_strategy": "interrupt",
    }
    whole = spec(thread_id=thread_id, **wishes)
    direct = (await process.services.runs.start("acme", thread_id, whole.request)).record
    await process.service.create("acme", "", whole)
    clock.advance(30)
    await process.ticker.look()

    ticked, *_ = await process.services.runs.of_thread("acme", thread_id, limit=10, offset=0, status=None)
    assert ticked.run_id != direct.run_id
    for run in (ticked, direct):
        assert (run.webhook, run.multitask_strategy, run.log_ttl) == (wishes["webhook"], "interrupt", 24 * 3600)
    said = orjson.loads(orjson.dumps(direct.kwargs))
    for kwargs in (said, ticked.kwargs):
        del kwargs["input"]["messages"][0]["id"]  # each run's message has its own
    assert said == ticked.kwargs
    assert ticked.deadline_at - ticked.created_at == direct.deadline_at - direct.created_at == timedelta(hours=1)


@pytest.mark.parametrize(("how", "days"), [("delete", 1), ("keep", None)])
async def test_the_thread_of_a_tick_goes_after_a_day_or_stays(
    start: Start, redis_client: Redis, clock: Clock, how: str, days: int | None
) -> None:
    """A day, because for so long the tick's idempotency key stands for its run."""
    process = await start()
    await process.service.create("acme", "", spec(keep_thread=how == "keep"))
    clock.advance(30)
    await process.ticker.look()
    [key] = [key async for key in redis_client.scan_iter(match="acme:{*}:thread", count=1000)]

    async def is_settled() -> bool:
        left = await redis_client.pttl(key) / 1000 / 86_400
        status = await redis_client.hget(key, "status")  # type: ignore[misc]
        return bool(status == b"idle" and (left <= days if days else left > 1))

    await until(is_settled, 10)


# --- when it ends


async def test_end_time_is_the_last_time(start: Start, redis_client: Redis, clock: Clock) -> None:
    """A tick at that very time is still started; the cron can be read for a month, and begun again."""
    process = await start()
    cron = await process.service.create("acme", "", spec(end_at=START.replace(minute=2, second=0)))
    for _ in range(4):
        clock.advance(60)
        await process.ticker.look()

    assert await ticks(redis_client) == ["12:01", "12:02"]
    ended = await known(process, cron)
    assert (ended.tick, ended.ended_by, ended.enabled) == (None, "end_time", True)
    key = CronKeys("acme").cron(cron.cron_id)
    assert 0 < await redis_client.pttl(key) <= ENDED_TTL * 1000
    again = await process.service.update("acme", cron.cron_id, lambda _: spec())
    assert (again.tick, again.ended_by) == (START.replace(minute=5, second=0), "")
    assert await redis_client.pttl(key) == -1


async def test_an_end_time_that_is_set_to_the_past_ends_it(start: Start, redis_client: Redis, clock: Clock) -> None:
    process = await start()
    cron = await process.service.create("acme", "", spec())
    ended = await process.service.update("acme", cron.cron_id, lambda _: spec(end_at=START - timedelta(days=1)))
    clock.advance(60)

    assert (ended.tick, ended.ended_by) == (None, "end_time")
    assert await process.ticker.look() == 0
    assert await redis_client.pttl(CronKeys("acme").cron(cron.cron_id)) > 0


@pytest.mark.parametrize("input", [HELLO, None])
async def test_a_cron_ends_with_its_thread(start: Start, redis_client: Redis, clock: Clock, input: Any) -> None:
    """Whatever its runs would have been given."""
    process = await start()
    thread_id = await new_thread(process)
    cron = await process.service.create("acme", "", spec(thread_id=thread_id, input=input))
    await process.services.runs.delete_thread("acme", thread_id)
    clock.advance(60)
    await process.ticker.look()
    clock.advance(60)

    ended = await known(process, cron)
    assert (ended.tick, ended.ended_by) == (None, "thread_deleted")
    assert ended.last_error is not None
    assert await process.ticker.look() == 0
    assert await redis_client.zcard(CRONS_DUE) == 0


async def test_a_deleted_cron_starts_nothing(start: Start, redis_client: Redis, clock: Clock) -> None:
    process = await start()
    cron = await process.service.create("acme", "", spec())
    await process.service.delete("acme", cron.cron_id)
    clock.advance(60)

    assert await process.ticker.look() == 0
    with pytest.raises(NotFound):
        await process.service.delete("acme", cron.cron_id)
    assert [key async for key in redis_client.scan_iter(match="*crons*")] == []


# --- guards


async def test_a_tick_that_is_refused_is_passed_over_and_says_why(start: Start, redis_client: Redis, clock: Clock) -> None:
    """`reject` on a busy thread: that tick starts nothing, and the next one may."""
    process = await start()
    thread_id = await new_thread(process)
    cron = await process.service.create("acme", "", spec(thread_id=thread_id, multitask_strategy="reject"))
    slow = RunRequest("conformance", {"messages": [{"role": "user", "content": "slow please"}]})
    busy = await process.services.runs.start("acme", thread_id, slow)
    clock.advance(30)
    await process.ticker.look()

    refused = await known(process, cron)
    assert (refused.last_error or {})["code"] == "thread_busy"
    assert await ticks(redis_client) == []
    await process.services.runs.cancel("acme", thread_id, busy.record.run_id, "interrupt", wait=True)
    clock.advance(60)
    await process.ticker.look()
    assert await ticks(redis_client) == ["12:02"]
    assert (await known(process, cron)).last_error is None


async def test_without_allowance_a_tick_waits(start: Start, redis_client: Redis, clock: Clock) -> None:
    """The API key that made the cron pays for its runs; what it cannot pay for is not lost."""
    limit = NoAllowance()
    process = await start(limit=limit)
    await process.service.create("acme", "key-1", spec())
    clock.advance(30)
    await process.ticker.look()
    assert (limit.asked, await ticks(redis_client)) == ([("acme", "key-1")], [])
    limit.is_allowed = True
    clock.advance(LEASE + 1)
    await process.ticker.look()

    assert await ticks(redis_client) == ["12:01"]


async def test_a_process_that_goes_down_leaves_ticks_to_others(start: Start, redis_client: Redis, clock: Clock) -> None:
    leaving, process = await start(), await start()
    await process.service.create("acme", "", spec())
    clock.advance(30)
    leaving.services.runs.begin_drain()
    await leaving.ticker.look()
    assert await ticks(redis_client) == []
    clock.advance(LEASE + 1)
    await process.ticker.look()

    assert await ticks(redis_client) == ["12:01"]


async def test_a_cron_that_cannot_be_read_as_a_run_keeps_no_other_waiting(start: Start, redis_client: Redis, clock: Clock) -> None:
    process = await start()
    first = await process.service.create("acme", "", spec())
    broken = replace(first, cron_id="00000000-0000-4000-8000-000000000000", request={"priority": 1, "unheard": "of"})
    assert await process.crons.create("acme", broken, most=10)
    clock.advance(30)
    await process.ticker.look()

    assert await ticks(redis_client) == ["12:01"]
    assert ((await known(process, broken)).last_error or {})["code"] == "internal_error"
    assert (await known(process, broken)).tick == START.replace(minute=2, second=0)


async def test_the_loop_outlives_an_outage(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Redis, and of anything that nobody foresaw."""
    monkeypatch.setattr(ticker_module, "LOOK_EVERY", 0.01)
    process = await start()
    looked = asyncio.Event()

    class Failing:
        calls = 0

        async def claim(self, *, limit: int) -> list[DueCron]:
            self.calls += 1
            if self.calls == 1:
                raise StorageUnavailable("away")
            if self.calls == 2:
                raise ValueError("unforeseen")
            looked.set()
            return []

    ticker = CronTicker(Failing(), process.services.runs, process.services.threads, None)  # type: ignore[arg-type]
    task = asyncio.create_task(ticker.run())
    async with asyncio.timeout(10):
        await looked.wait()
    task.cancel()
    await asyncio.wait([task])


# --- changed


async def test_a_disabled_cron_rests_and_misses_nothing_that_is_made_up_for(start: Start, redis_client: Redis, clock: Clock) -> None:
    process = await start()
    cron = await process.service.create("acme", "", spec())
    resting = await process.service.update("acme", cron.cron_id, lambda _: spec(enabled=False))
    assert (resting.tick, resting.ended_by) == (None, "")
    clock.advance(600)
    assert await process.ticker.look() == 0
    woken = await process.service.update("acme", cron.cron_id, lambda _: spec())

    assert woken.tick == START.replace(minute=11, second=0)
    assert await ticks(redis_client) == []


async def test_a_change_keeps_a_tick_that_is_due_and_a_new_schedule_does_not(start: Start, redis_client: Redis, clock: Clock) -> None:
    """Also while a process has claimed it: the claim holds, and what is settled is the cron as it is by then."""
    process = await start()
    cron = await process.service.create("acme", "", spec())
    clock.advance(30)
    [due] = await process.crons.claim(limit=10)
    changed = await process.service.update("acme", cron.cron_id, lambda _: spec(metadata={"new": 1}))
    assert changed.tick == due.cron.tick
    assert await process.ticker.look() == 0
    assert not await process.crons.settle(due, tick=None)
    clock.advance(LEASE + 1)
    await process.ticker.look()
    assert await ticks(redis_client) == ["12:01"]

    moved = await process.service.update("acme", cron.cron_id, lambda _: spec("0 0 * * *"))
    clock.advance(600)
    assert moved.tick == datetime(2100, 1, 2, tzinfo=UTC)
    assert await process.ticker.look() == 0


async def test_changes_at_the_same_time_all_count(start: Start) -> None:
    process = await start()
    cron = await process.service.create("acme", "", spec())

    def adding(name: str) -> Callable[[CronRecord], CronSpec]:
        return lambda now: spec(metadata={**now.metadata, name: 1})

    await asyncio.gather(*(process.service.update("acme", cron.cron_id, adding(name)) for name in "abcdef"))

    assert (await known(process, cron)).metadata == dict.fromkeys("abcdef", 1)


# --- refused


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"schedule": "every day"}, "invalid_schedule"),
        ({"timezone": "Mars/Olympus"}, "invalid_timezone"),
        ({"schedule": "0 0 30 2 *"}, "never_due"),
        ({"end_at": START}, "never_due"),
        ({"metadata": {"a": "x" * 40_000}}, "cron_too_large"),
        ({"metadata": {"a": 2**70}}, "invalid_input"),
        ({"assistant_id": "nobody"}, "assistant_not_found"),
        ({"input": {"messages": "x"}}, "invalid_input"),
        ({"interrupt_before": ("nowhere",)}, "invalid_input"),
    ],
)
async def test_a_cron_that_could_not_run_is_refused(start: Start, redis_client: Redis, changes: dict[str, Any], code: str) -> None:
    process = await start()
    with pytest.raises(InvalidInput) as refusal:
        await process.service.create("acme", "", spec(**changes))
    assert refusal.value.code == code
    assert await process.crons.all("acme") == []


async def test_a_tenant_has_so_many_crons_and_no_more(start: Start, monkeypatch: pytest.MonkeyPatch, redis_client: Redis) -> None:
    """Those that have gone by themselves do not count; other tenants have their own."""
    monkeypatch.setattr(service_module, "MAX_CRONS", 3)
    process = await start()
    crons = [await process.service.create("acme", "", spec()) for _ in range(3)]
    with pytest.raises(AlreadyExists) as refusal:
        await process.service.create("acme", "", spec())
    assert refusal.value.code == "too_many_crons"
    await process.service.create("globex", "", spec())
    await redis_client.delete(CronKeys("acme").cron(crons[0].cron_id))
    await process.service.create("acme", "", spec())


async def test_many_crons_are_listed_whole(start: Start) -> None:
    """A page of them per round trip."""
    process = await start()
    made = [await process.service.create("acme", "", spec()) for _ in range(205)]
    assert {cron.cron_id for cron in await process.crons.all("acme")} == {cron.cron_id for cron in made}


async def test_a_foreign_cron_is_a_missing_one(start: Start) -> None:
    process = await start()
    cron = await process.service.create("acme", "", spec())
    for operation in (
        process.service.delete("globex", cron.cron_id),
        process.service.update("globex", cron.cron_id, lambda _: spec()),
        process.service.create("globex", "", spec(thread_id=await new_thread(process))),
    ):
        with pytest.raises(NotFound):
            await operation
    assert await process.crons.all("globex") == []
    assert len(await process.crons.all("acme")) == 1
