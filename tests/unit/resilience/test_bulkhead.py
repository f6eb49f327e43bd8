"""How many calls one dependency may have at once."""

import asyncio
from dataclasses import replace
from random import Random

import pytest

from resilience.bulkhead import ON_THE_WAY, Bulkhead, BulkheadSettings
from resilience.context import CallContext, Priority, Standing
from resilience.deadline import Deadline
from resilience.errors import BulkheadFull, DeadlineExceeded, Overloaded, TransientError
from resilience.events import EventKind, ResilienceEvent
from resilience.testing import fail_then_return
from tests.support.virtual_time import LoopClock


def room(limit: int, queue: int, **options) -> Bulkhead:
    return Bulkhead("model:openai/gpt-x", BulkheadSettings(limit, queue), **options)


class Dependency:
    """Takes a second for each call, and remembers how many it had at once and in which order."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.order: list[str] = []

    async def __call__(self, ctx: CallContext) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        self.order.append(ctx.operation)
        try:
            await asyncio.sleep(1)
        finally:
            self.now -= 1
        return ctx.operation


def named(name: str, seconds: float = 60) -> CallContext:
    return CallContext(name, Deadline.after(seconds, LoopClock()))


async def cancelled(task: asyncio.Task) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_more_calls_than_the_limit_are_under_way():
    """Ten calls through a room for three take four rounds."""
    dependency, bulkhead = Dependency(), room(3, 10)

    await asyncio.gather(*(bulkhead.execute(dependency, named(str(number))) for number in range(10)))

    assert dependency.most == 3
    assert asyncio.get_running_loop().time() == pytest.approx(4)
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)


async def test_first_come_first_served():
    """The queue keeps its order."""
    dependency, bulkhead = Dependency(), room(1, 10)

    await asyncio.gather(*(bulkhead.execute(dependency, named(str(number))) for number in range(6)))

    assert dependency.order == ["0", "1", "2", "3", "4", "5"]


async def test_nobody_overtakes_the_queue():
    """A call that arrives at the moment a place becomes free waits behind those that were there before."""
    dependency, bulkhead = Dependency(), room(1, 10)

    async def first_and_newcomer() -> None:
        await bulkhead.execute(dependency, named("first"))
        await bulkhead.execute(dependency, named("newcomer"))

    async with asyncio.TaskGroup() as group:
        group.create_task(first_and_newcomer())
        await asyncio.sleep(0)
        group.create_task(bulkhead.execute(dependency, named("waiting")))

    assert dependency.order == ["first", "waiting", "newcomer"]


async def test_a_full_queue_refuses_at_once(events: list[ResilienceEvent]):
    """The call never reaches the dependency, and the refusal is told."""
    dependency, bulkhead = Dependency(), room(1, 1, listener=events.append)
    tasks = [asyncio.create_task(bulkhead.execute(dependency, named(name))) for name in ("running", "waiting")]
    await asyncio.sleep(0)
    assert (bulkhead.active, bulkhead.waiting) == (1, 1)

    with pytest.raises(BulkheadFull, match="1 calls under way and 1 waiting"):
        await bulkhead.execute(dependency, named("refused"))

    assert asyncio.get_running_loop().time() == 0
    assert events == [ResilienceEvent(EventKind.REJECTED, "refused", "model:openai/gpt-x", {"why": "bulkhead_full"})]
    await asyncio.gather(*tasks)
    assert dependency.order == ["running", "waiting"]


async def test_without_a_queue_nobody_waits():
    """`queue=0` refuses as soon as the limit is reached."""
    dependency, bulkhead = Dependency(), room(1, 0)
    task = asyncio.create_task(bulkhead.execute(dependency, named("running")))
    await asyncio.sleep(0)

    with pytest.raises(BulkheadFull):
        await bulkhead.execute(dependency, named("refused"))

    await task


async def test_waiting_spends_the_deadline():
    """Whoever runs out of time in the queue leaves it, uncalled, and its place in the queue is free."""
    dependency, bulkhead = Dependency(), room(1, 1)
    running = asyncio.create_task(bulkhead.execute(dependency, named("running")))
    await asyncio.sleep(0)

    with pytest.raises(DeadlineExceeded, match="late"):
        await bulkhead.execute(dependency, named("late", seconds=0.5))

    assert asyncio.get_running_loop().time() == pytest.approx(0.5)
    assert bulkhead.waiting == 0
    await running
    assert dependency.order == ["running"]
    assert bulkhead.active == 0


async def test_a_call_that_fails_gives_its_place_back(ctx: CallContext):
    """Errors leave no place taken."""
    bulkhead = room(1, 0)

    for _ in range(3):
        with pytest.raises(TransientError):
            await bulkhead.execute(fail_then_return(1, TransientError("503"), ""), ctx)

    assert bulkhead.active == 0


async def test_a_stream_holds_its_place_until_it_ends(ctx: CallContext):
    """Having started to answer is not having answered."""
    bulkhead = room(1, 0)

    async def stream(ctx: CallContext) -> None:
        ctx.output.start()
        await asyncio.sleep(5)

    task = asyncio.create_task(bulkhead.execute(stream, ctx))
    await asyncio.sleep(4)

    with pytest.raises(BulkheadFull):
        await bulkhead.execute(stream, ctx)
    await task


async def test_a_cancelled_call_gives_its_place_to_the_next():
    """The one who waits begins when the one under way is cancelled."""
    dependency, bulkhead = Dependency(), room(1, 1)
    running = asyncio.create_task(bulkhead.execute(dependency, named("running")))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(bulkhead.execute(dependency, named("waiting")))
    await asyncio.sleep(0)

    await cancelled(running)

    assert await waiting == "waiting"
    assert bulkhead.active == 0


async def test_a_cancelled_waiter_leaves_the_queue():
    """Its place in the queue goes to somebody else."""
    dependency, bulkhead = Dependency(), room(1, 1)
    running = asyncio.create_task(bulkhead.execute(dependency, named("running")))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(bulkhead.execute(dependency, named("waiting")))
    await asyncio.sleep(0)

    await cancelled(waiting)

    assert bulkhead.waiting == 0
    assert await bulkhead.execute(dependency, named("next")) == "next"
    await running
    assert bulkhead.active == 0


async def test_a_waiter_cancelled_in_the_moment_it_is_called_in_passes_the_place_on():
    """Between being handed the place and taking it, a waiter may be cancelled: the place goes to the next one, or back."""
    bulkhead = room(1, 5)
    release = asyncio.Event()

    async def until_released(ctx: CallContext) -> None:
        await release.wait()

    running = asyncio.create_task(bulkhead.execute(until_released, named("running")))
    await asyncio.sleep(0)
    first, second = (asyncio.create_task(bulkhead.execute(Dependency(), named(name))) for name in ("first", "second"))
    await asyncio.sleep(0)

    release.set()
    running.add_done_callback(lambda _: first.cancel())
    with pytest.raises(asyncio.CancelledError):
        await first

    assert await second == "second"
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)


async def test_a_waiter_cancelled_in_the_same_moment_as_its_predecessor_is_passed_over():
    """A place is never handed to somebody who is already gone."""
    dependency, bulkhead = Dependency(), room(1, 5)
    tasks = []
    for name in ("running", "gone", "next"):
        tasks.append(asyncio.create_task(bulkhead.execute(dependency, named(name))))
        await asyncio.sleep(0)
    running, gone, following = tasks

    running.cancel()
    gone.cancel()
    await asyncio.wait([running, gone])

    assert await following == "next"
    assert dependency.order == ["running", "next"]
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)


@pytest.mark.parametrize("seed", range(40))
async def test_no_place_is_lost_whoever_is_cancelled_when(seed: int):
    """Hundreds of calls ended at random instants, by cancel, deadline or error, leave the room empty and within its limit."""
    rng, bulkhead = Random(seed), room(3, 6)
    under_way = most = 0

    async def call(ctx: CallContext) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await asyncio.sleep(rng.choice([0, 0.5, 1]))
            if rng.random() < 0.2:
                raise TransientError("503")
        finally:
            under_way -= 1

    tasks = []
    for number in range(200):
        standing = Standing(rng.choice("abc"), rng.choice(list(Priority)), rng.random() < 0.3)
        ctx = replace(named(str(number), rng.choice([0.5, 1, 5])), standing=standing)
        tasks.append(asyncio.create_task(bulkhead.execute(call, ctx)))
        for _ in range(rng.randrange(3)):
            rng.choice(tasks).cancel()
        await asyncio.sleep(rng.choice([0, 0, 0.25, 0.5]))
    await asyncio.wait(tasks)

    outcomes = {"cancelled" if task.cancelled() else type(task.exception()) for task in tasks}
    assert outcomes <= {"cancelled", type(None), TransientError, BulkheadFull, DeadlineExceeded, Overloaded}
    assert most == 3
    assert (under_way, bulkhead.active, bulkhead.waiting) == (0, 0, 0)


@pytest.mark.parametrize(("limit", "queue"), [(0, 1), (1, -1)])
def test_nonsense_is_refused(limit: int, queue: int):
    """A room for nobody, or a queue of less than nobody, is a mistake of the configuration."""
    with pytest.raises(ValueError, match="a bulkhead needs"):
        BulkheadSettings(limit, queue)


def test_a_fresh_bulkhead_is_empty():
    """The defaults are ready to use."""
    bulkhead = Bulkhead("tool:find_order")

    assert (bulkhead.dependency, bulkhead.active, bulkhead.waiting) == ("tool:find_order", 0, 0)


# --- whose turn it is, and how long until then ---------------------------------------------------------------------------


def of(
    tenant: str = "", priority: Priority = Priority.DEFAULT, *, continues: bool = False, name: str = "", seconds: float = 60
) -> CallContext:
    standing = Standing(tenant, priority, continues, name)
    return CallContext(name or tenant, Deadline.after(seconds, LoopClock()), standing=standing)


async def in_order(bulkhead: Bulkhead, dependency: Dependency, *contexts: CallContext) -> list[str]:
    """The order in which they are served that come one after the other while the room is taken."""
    tasks = []
    for ctx in (named("first"), *contexts):
        tasks.append(asyncio.create_task(bulkhead.execute(dependency, ctx)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return dependency.order[1:]


async def test_calls_of_requests_under_way_go_first_then_the_urgent_then_tenants_in_turn():
    """Whatever the order of their coming."""
    batch, noisy, quiet, urgent, old = (
        of("a", Priority.BATCH, name="batch"),
        of("noisy", name="noisy"),
        of("quiet", name="quiet"),
        of("a", Priority.INTERACTIVE, name="urgent"),
        of("a", continues=True, name="old"),
    )

    order = await in_order(room(1, 10), Dependency(), batch, noisy, noisy, quiet, urgent, old)

    assert order == ["old", "urgent", "noisy", "quiet", "noisy", "batch"]


async def test_a_full_queue_refuses_no_request_that_is_under_way():
    """New arrivals cannot push out what was begun."""
    dependency, bulkhead = Dependency(), room(1, 0)
    running = asyncio.create_task(bulkhead.execute(dependency, named("running")))
    await asyncio.sleep(0)

    assert await bulkhead.execute(dependency, of(continues=True, name="under way")) == "under way"
    await running


async def test_who_could_not_be_served_in_time_is_refused_at_once(events: list[ResilienceEvent]):
    """The wait is predicted from the calls before; the refusal says how long it would have been."""
    dependency, bulkhead = Dependency(), room(1, 10, clock=LoopClock(), listener=events.append)
    await bulkhead.execute(dependency, named("one to learn from"))
    tasks = [asyncio.create_task(bulkhead.execute(dependency, named(str(number)))) for number in range(4)]
    await asyncio.sleep(0)
    begun = asyncio.get_running_loop().time()

    with pytest.raises(Overloaded) as refused:
        await bulkhead.execute(dependency, of(seconds=3.5, name="late"))

    assert asyncio.get_running_loop().time() == begun
    assert refused.value.retry_after == pytest.approx(4)
    assert events[-1] == ResilienceEvent(EventKind.REJECTED, "late", "model:openai/gpt-x", {"why": "overloaded"})
    assert await bulkhead.execute(dependency, of(seconds=4.5, name="in time")) == "in time"
    await asyncio.gather(*tasks)


async def test_the_predicted_wait_is_ones_own():
    """It counts who would be served before: all of one's own, one turn of each other tenant, nobody of a lesser class."""
    dependency, bulkhead = Dependency(), room(2, 20, clock=LoopClock())
    await bulkhead.execute(dependency, named("one to learn from"))
    assert bulkhead.predicted_wait(Standing()) == 0
    tasks = [asyncio.create_task(bulkhead.execute(dependency, of("noisy"))) for _ in range(8)]  # two under way, six wait
    await asyncio.sleep(0)

    waits = [
        bulkhead.predicted_wait(standing)
        for standing in (
            Standing("noisy"),
            Standing("quiet"),
            Standing("noisy", Priority.INTERACTIVE),
            Standing("noisy", is_under_way=True),
        )
    ]
    assert waits == [pytest.approx(seconds) for seconds in (7 / 2, 2 / 2, 1 / 2, 1 / 2)]
    assert bulkhead.predicted_wait(Standing("quiet"), more=4) == pytest.approx(6 / 2)
    await asyncio.gather(*tasks)


async def test_requests_that_were_accepted_count_before_their_first_call_comes():
    """Until it comes, or is called off, or the time for it is over; else a burst would see an empty room."""
    dependency, bulkhead = Dependency(), room(1, 20, clock=LoopClock())
    await bulkhead.execute(dependency, named("one to learn from"))
    for name in ("a", "b", "c"):
        bulkhead.expect(Standing("acme", request=name))
    assert bulkhead.predicted_wait(Standing("acme")) == pytest.approx(3)

    bulkhead.expect_no_longer("a")
    task = asyncio.create_task(bulkhead.execute(dependency, of("acme", name="b")))
    await asyncio.sleep(0)
    assert (bulkhead.expected, bulkhead.active) == (1, 1)
    assert bulkhead.predicted_wait(Standing("acme")) == pytest.approx(2)
    await task
    await asyncio.sleep(ON_THE_WAY)

    assert bulkhead.expected == 0
    assert bulkhead.predicted_wait(Standing("acme")) == 0


async def test_waits_are_told(events: list[ResilienceEvent]):
    """Those that had to wait, and how long."""
    await in_order(room(1, 10, clock=LoopClock(), listener=events.append), Dependency(), named("a"), named("b"))

    assert [(event.operation, event.fields["seconds"]) for event in events] == [("a", pytest.approx(1)), ("b", pytest.approx(2))]


async def test_who_is_next_of_its_tenant():
    """Nobody of the same tenant and priority waits, or was accepted and is on its way; others do not matter."""
    bulkhead, a, b = room(1, 10, clock=LoopClock()), Standing("a", request="1"), Standing("b")
    batch = replace(a, priority=Priority.BATCH)
    assert bulkhead.is_next_of_its_tenant(a)

    bulkhead.expect(a)
    assert [bulkhead.is_next_of_its_tenant(standing) for standing in (a, b, batch)] == [False, True, True]
    bulkhead.expect_no_longer("1")
    assert bulkhead.is_next_of_its_tenant(a)

    calls = [asyncio.create_task(bulkhead.execute(Dependency(), replace(named("a"), standing=a))) for _ in range(2)]
    await asyncio.sleep(0.5)
    assert [bulkhead.is_next_of_its_tenant(standing) for standing in (a, b, batch)] == [False, True, True]
    await asyncio.gather(*calls)
    assert bulkhead.is_next_of_its_tenant(a)


async def test_the_predicted_wait_is_finite_where_nobody_has_begun_lately():
    """All calls so far were further ones: nine more for each who begins is the most that is believed."""
    dependency, bulkhead = Dependency(), room(1, 20, clock=LoopClock())
    further = replace(named("continues"), standing=Standing(is_under_way=True))
    await bulkhead.execute(dependency, further)
    calls = [asyncio.create_task(bulkhead.execute(dependency, ctx)) for ctx in (further, named("begins"))]
    await asyncio.sleep(0)

    assert bulkhead.predicted_wait(Standing()) == pytest.approx(2 + 10)
    await asyncio.gather(*calls)


async def test_the_predicted_wait_counts_the_further_calls_of_those_who_begin():
    """Of three calls so far one was a further one, so every two who begin before one mean one more call that goes first."""
    dependency, bulkhead = Dependency(), room(1, 20, clock=LoopClock())
    await bulkhead.execute(dependency, named("begins"))
    await bulkhead.execute(dependency, replace(named("continues"), standing=Standing(is_under_way=True)))
    calls = [asyncio.create_task(bulkhead.execute(dependency, named("begins"))) for _ in range(5)]  # one under way, four wait
    await asyncio.sleep(0)

    assert bulkhead.predicted_wait(Standing()) == pytest.approx(5 + 4 / 2)
    assert bulkhead.predicted_wait(Standing(is_under_way=True)) == pytest.approx(1)
    await asyncio.gather(*calls)
