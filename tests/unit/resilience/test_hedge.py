"""When a slow call is made a second time, who wins, and what is left of the other."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import DeadlineExceeded, TransientError
from resilience.events import EventKind, ResilienceEvent
from resilience.hedge import LATE, LOOK_AGAIN, Hedge, HedgeSettings
from tests.support.virtual_time import LoopClock, VirtualTimeLoop

USUAL = 1.0
"""How long the dependency of these tests usually takes, seconds: also its quantile."""
RICH = HedgeSettings(ratio=1.0, burst=1000.0)
"""Second calls for nothing, where their number is not what the test is about."""

Act = float | tuple[float, Exception]


class Dependency:
    """Takes the seconds that it is told, call by call, the last ones for ever, and returns its call's number or raises."""

    def __init__(self, *acts: Act) -> None:
        self._acts = acts
        self.begun: list[float] = []
        self.cancelled: list[int] = []

    async def __call__(self, ctx: CallContext) -> int:
        self.begun.append(now())
        number = len(self.begun)
        act = self._acts[min(number, len(self._acts)) - 1]
        seconds, error = act if isinstance(act, tuple) else (act, None)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        if error:
            raise error
        return number


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture(autouse=True)
async def _no_task_is_left_and_nothing_is_complained_of() -> AsyncIterator[None]:
    """Every test ends with the tasks that it began with."""
    heard: list[dict] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}
    gc.collect(0)  # what this test made: enough to hear of exceptions that nobody asked for, and quick
    assert heard == []


@pytest.fixture
async def read(ctx: CallContext) -> CallContext:
    """A call that may be made twice at once."""
    return replace(ctx, is_read_only=True)


class BusyClock(LoopClock):
    """Of a process that uses a share of a core."""

    share = 0.0

    def cpu(self) -> float:
        return self.share * self.monotonic()


async def trained(read: CallContext, settings: HedgeSettings = RICH, calls: int = 20, **more) -> Hedge:
    """A hedge that has seen this many calls of the usual length."""
    hedge = Hedge(settings, dependency="model:a", **{"clock": LoopClock(), **more})
    await asyncio.gather(*(hedge.execute(Dependency(USUAL), read) for _ in range(calls)))
    return hedge


# --- who wins -----------------------------------------------------------------------------------------------------------


async def test_a_call_of_usual_length_is_made_once(read: CallContext, events: list[ResilienceEvent]):
    """Nothing happens, and nothing is told."""
    hedge, usual = await trained(read, listener=events.append), Dependency(0.99 * USUAL)

    assert await hedge.execute(usual, read) == 1

    assert (len(usual.begun), events) == (1, [])


async def test_the_second_of_a_slow_call_wins_and_the_first_is_cancelled(read: CallContext, events: list[ResilienceEvent]):
    """It begins when the first has taken as long as 95 % of the recent calls do, and its answer is the caller's."""
    hedge, slow, begun = await trained(read, listener=events.append), Dependency(100.0, 0.5), USUAL

    assert await hedge.execute(slow, read) == 2

    assert slow.begun == [begun, begun + USUAL]
    assert slow.cancelled == [1]
    assert now() == pytest.approx(begun + USUAL + 0.5)
    assert events == [
        ResilienceEvent(EventKind.HEDGE_STARTED, "model:gpt-x", "model:a", {"after": pytest.approx(USUAL)}),
        ResilienceEvent(EventKind.HEDGE_WON, "model:gpt-x", "model:a", {"after": pytest.approx(USUAL + 0.5)}),
    ]


@pytest.mark.parametrize(("late", "begun"), [(LATE * 0.9, USUAL + LATE * 0.9), (LATE * 1.1, USUAL + LATE * 1.1 + LOOK_AGAIN)], ids=str)
async def test_a_process_that_is_slow_itself_waits_with_the_second_call(read: CallContext, late: float, begun: float):
    """When the timer comes late, another call would only make everything later; it is looked again soon."""
    hedge, slow, now_ = await trained(read), Dependency(10 * USUAL, 1.0), now()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.call_later(USUAL / 2, lambda: loop.jump(USUAL / 2 + late))  # something occupies the loop

    await hedge.execute(slow, read)

    assert slow.begun[1] - now_ == pytest.approx(begun)


async def test_a_process_that_stays_slow_makes_no_second_call(read: CallContext):
    """Whenever it is looked again, it is late."""
    hedge, slow = await trained(read), Dependency(3 * USUAL)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)

    def occupy() -> None:
        loop.jump(0.04)
        loop.call_later(0.001, occupy)

    loop.call_soon(occupy)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.5 * USUAL):
            await hedge.execute(slow, read)

    assert len(slow.begun) == 1


@pytest.mark.parametrize(("share", "calls"), [(0.7, 2), (0.8, 1)])
async def test_a_process_without_cpu_to_spare_makes_no_second_call(read: CallContext, share: float, calls: int):
    """From three quarters of a core on the call may as well be slow because of us."""
    clock = BusyClock()
    hedge, slow = await trained(read, clock=clock), Dependency(3 * USUAL)
    clock.share = share

    await hedge.execute(slow, read)

    assert len(slow.begun) == calls


async def test_the_first_of_a_slow_call_wins_and_the_second_is_cancelled(read: CallContext, events: list[ResilienceEvent]):
    """The second was for nothing, and is not told as a victory."""
    hedge, slow = await trained(read, listener=events.append), Dependency(2.0, 100.0)

    assert await hedge.execute(slow, read) == 1

    assert slow.cancelled == [2]
    assert now() == pytest.approx(USUAL + 2.0)
    assert [event.kind for event in events] == [EventKind.HEDGE_STARTED]


async def test_two_that_answer_in_the_same_moment_are_one_answer(read: CallContext):
    """Nobody is left cancelled."""
    hedge, tie = await trained(read), Dependency(2.0, 1.0)

    assert await hedge.execute(tie, read) in (1, 2)
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_it_returns_when_neither_runs_any_more(read: CallContext):
    """A loser that takes its time to end is waited for: what it holds is free again."""
    hedge, ended = await trained(read), []

    async def slow(ctx: CallContext) -> int:
        number = len(ended) + 1 if now() == USUAL else 2
        try:
            await asyncio.sleep(2.0 if number == 1 else 100.0)
        except asyncio.CancelledError:
            await asyncio.sleep(0.25)
            ended.append(number)
            raise
        return number

    assert await hedge.execute(slow, read) == 1
    assert ended == [2]


# --- when one fails -----------------------------------------------------------------------------------------------------


async def test_a_first_that_fails_before_its_time_is_not_hedged(read: CallContext):
    """Quick failures are the retry's."""
    hedge, dead = await trained(read), Dependency((0.1, TransientError("503")))

    with pytest.raises(TransientError):
        await hedge.execute(dead, read)
    await asyncio.sleep(10)

    assert len(dead.begun) == 1


async def test_when_the_first_fails_the_second_is_waited_for(read: CallContext, events: list[ResilienceEvent]):
    """The caller never hears of the failure."""
    hedge, slow = await trained(read, listener=events.append), Dependency((1.5, TransientError("503")), 4.0)

    assert await hedge.execute(slow, read) == 2
    assert [event.kind for event in events] == [EventKind.HEDGE_STARTED, EventKind.HEDGE_WON]


async def test_when_the_second_fails_the_first_is_waited_for(read: CallContext, events: list[ResilienceEvent]):
    """A refusal by the breaker, for one."""
    hedge, slow = await trained(read, listener=events.append), Dependency(5.0, (0.1, TransientError("503")))

    assert await hedge.execute(slow, read) == 1
    assert [event.kind for event in events] == [EventKind.HEDGE_STARTED]


@pytest.mark.parametrize("times", [(2.0, 0.5), (2.0, 1.0), (2.0, 5.0)], ids=["second ends first", "together", "first ends first"])
async def test_when_both_fail_the_first_ones_error_is_raised(read: CallContext, times: tuple[float, float]):
    """The same object, whoever fails first."""
    error = TransientError("first")
    hedge, dead = await trained(read), Dependency((times[0], error), (times[1], TransientError("second")))

    with pytest.raises(TransientError) as caught:
        await hedge.execute(dead, read)

    assert caught.value is error
    assert error.__context__ is None


async def test_a_first_that_fails_when_it_is_cancelled_has_lost_all_the_same(read: CallContext):
    """Some clients turn a cancellation into an error of their own."""
    hedge = await trained(read)

    async def call(ctx: CallContext) -> str:
        if now() > USUAL:
            return "second"
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise TransientError("connection closed") from None
        return "never"

    assert await hedge.execute(call, read) == "second"
    assert asyncio.current_task().cancelling() == 0


async def test_a_first_that_answers_when_it_is_cancelled_has_answered(read: CallContext, events: list[ResilienceEvent]):
    """And the cancellation is not left behind for the caller's next wait."""
    hedge = await trained(read, listener=events.append)

    async def call(ctx: CallContext) -> str:
        if now() > USUAL:
            return "second"
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "first"
        return "never"

    assert await hedge.execute(call, read) == "first"
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0
    assert [event.kind for event in events] == [EventKind.HEDGE_STARTED]


async def test_a_loser_may_fail_while_it_ends(read: CallContext):
    """Its error is of no interest to anybody, and nobody complains that it was not asked for."""
    hedge = await trained(read)

    async def call(ctx: CallContext) -> str:
        if now() == USUAL:
            await asyncio.sleep(2)
            return "first"
        try:
            await asyncio.sleep(100)
        finally:
            raise RuntimeError("cannot even close")

    assert await hedge.execute(call, read) == "first"


# --- cancellation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acts", "at", "ended"),
    [
        ((100.0, 100.0), 0.5, [1]),
        ((100.0, 100.0), 3.0, [1, 2]),
        (((2.0, TransientError("503")), 100.0), 3.0, [2]),
        ((100.0, (0.5, TransientError("503"))), 3.0, [1]),
    ],
    ids=["before the second", "beside the second", "after the first failed", "after the second failed"],
)
async def test_cancelling_the_caller_cancels_whatever_runs(read: CallContext, acts: tuple[Act, ...], at: float, ended: list[int]):
    """At once, and no second call begins later."""
    hedge, hanging = await trained(read), Dependency(*acts)
    task = asyncio.create_task(hedge.execute(hanging, read))
    await asyncio.sleep(at)
    begun = len(hanging.begun)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert sorted(hanging.cancelled) == ended
    assert now() == pytest.approx(USUAL + at)
    await asyncio.sleep(100)
    assert len(hanging.begun) == begun


async def test_a_caller_who_is_cancelled_in_the_moment_of_victory_is_cancelled(read: CallContext):
    """Ours and the caller's cancellation fall together: the caller's stays."""
    hedge = await trained(read)
    task: asyncio.Task

    async def call(ctx: CallContext) -> str:
        if now() > USUAL:
            asyncio.get_running_loop().call_soon(task.cancel)
            return "second"
        await asyncio.sleep(100)
        return "never"

    task = asyncio.create_task(hedge.execute(call, read))

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("seconds", [1.5, 1.25], ids=["outside", "with the victory"])
async def test_a_time_limit_around_it_ends_both(read: CallContext, seconds: float):
    """A limit that strikes in the same moment as the victory is still the limit's."""
    hedge, slow = await trained(read), Dependency(100.0, 0.25 if seconds == 1.25 else 100.0)

    try:
        async with asyncio.timeout(seconds):
            result = await hedge.execute(slow, read)
    except TimeoutError:
        result = None

    assert result in ((None,) if seconds == 1.5 else (None, 2))
    assert 1 in slow.cancelled
    assert asyncio.current_task().cancelling() == 0


async def test_a_time_limit_inside_the_first_may_strike_with_the_victory(read: CallContext):
    """The attempt's limit and the second's answer in one moment: the answer counts, and nobody stays cancelled."""
    hedge = await trained(read)

    async def call(ctx: CallContext) -> str:
        if now() > USUAL:
            await asyncio.sleep(0.5)
            return "second"
        async with asyncio.timeout_at(USUAL + USUAL + 0.5):
            await asyncio.sleep(100)
        return "never"

    assert await hedge.execute(call, read) == "second"
    assert asyncio.current_task().cancelling() == 0


# --- when there is no second call ---------------------------------------------------------------------------------------


async def test_only_read_only_calls_are_made_twice(ctx: CallContext, read: CallContext):
    """Neither one that writes nor one that somebody reads along, however idempotent it is."""
    hedge, slow = await trained(read), Dependency(100.0)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(50):
            await hedge.execute(slow, replace(ctx, idempotent=True))

    assert len(slow.begun) == 1


async def test_a_call_that_is_not_read_only_teaches_nothing(ctx: CallContext):
    """Its length is another one's."""
    hedge = Hedge(RICH, clock=LoopClock())
    await asyncio.gather(*(hedge.execute(Dependency(USUAL), ctx) for _ in range(50)))
    slow = Dependency(100.0)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(50):
            await hedge.execute(slow, replace(ctx, is_read_only=True))

    assert len(slow.begun) == 1


async def test_a_further_attempt_is_made_once(read: CallContext):
    """The retry has its own budget; a dependency that fails does not get four calls for one."""
    hedge, slow = await trained(read), Dependency(100.0)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(50):
            await hedge.execute(slow, read.with_attempt(2))

    assert len(slow.begun) == 1


@pytest.mark.parametrize(("calls", "begun"), [(19, 1), (20, 2)])
async def test_too_few_calls_say_nothing_about_the_usual(read: CallContext, calls: int, begun: int):
    """Twenty, no fewer."""
    hedge, slow = await trained(read, calls=calls), Dependency(5.0)

    await hedge.execute(slow, read)

    assert len(slow.begun) == begun


async def test_nothing_is_made_twice_after_the_first_output(read: CallContext):
    """The reader would see two beginnings."""
    hedge, begun = await trained(read), 0

    async def speaks(ctx: CallContext) -> None:
        nonlocal begun
        begun += 1
        ctx.output.start()
        await asyncio.sleep(5)

    await hedge.execute(speaks, read)

    assert begun == 1


@pytest.mark.parametrize(("left", "begun"), [(2 * USUAL - 0.01, 1), (2 * USUAL + 0.01, 2)])
async def test_no_second_call_begins_that_could_not_end_in_time(read: CallContext, left: float, begun: int):
    """A typical call must still fit into what the deadline leaves."""
    hedge, slow = await trained(read), Dependency(1.9)

    await hedge.execute(slow, read.with_deadline(Deadline.after(left, LoopClock())))

    assert len(slow.begun) == begun


async def test_a_quick_dependency_is_given_a_moment(read: CallContext):
    """Milliseconds are not worth a second call: the floor counts."""
    hedge = Hedge(replace(RICH, floor=0.5), clock=LoopClock())
    for _ in range(20):
        await hedge.execute(Dependency(0.001), read)
    begun, slow = now(), Dependency(5.0)

    await hedge.execute(slow, read)

    assert slow.begun == [begun, pytest.approx(begun + 0.5)]


# --- how many second calls ----------------------------------------------------------------------------------------------


async def test_second_calls_are_earned_by_successes(read: CallContext):
    """Twenty earn one; the next slow call must wait for twenty more."""
    hedge = await trained(read, HedgeSettings())
    first, second = Dependency(5.0), Dependency(5.0)

    await hedge.execute(first, read)
    await hedge.execute(second, read)

    assert (len(first.begun), len(second.begun)) == (2, 1)


async def test_no_more_than_the_burst_is_saved_up(read: CallContext):
    """A day of quick calls does not pay for a storm."""
    hedge = await trained(read, HedgeSettings(memory=1000), calls=900)
    slow = [Dependency(5.0) for _ in range(20)]

    await asyncio.gather(*(hedge.execute(call, read) for call in slow))

    assert sum(len(call.begun) for call in slow) == 20 + 5


async def test_a_dead_dependency_gets_no_second_calls(read: CallContext):
    """All calls hang until something ends them: after what was saved up there is none."""
    hedge = await trained(read, HedgeSettings(), calls=200)
    hanging = [Dependency((7.0, TransientError("timed out"))) for _ in range(1000)]

    outcomes = await asyncio.gather(*(hedge.execute(call, read) for call in hanging), return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {TransientError}
    assert sum(len(call.begun) for call in hanging) == 1000 + 5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stragglers", [0.0, 0.02, 0.2])
async def test_load_grows_by_a_twentieth_at_most_and_the_tail_shrinks(read: CallContext, seed: int, stragglers: float):
    """Long-tailed calls, concurrent as in life; with few stragglers hedging takes most of them away."""
    rng = Random(seed)
    calls, begun, took = 2000, 0, []
    hedge = Hedge(clock=LoopClock())

    async def call(ctx: CallContext) -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(20.0 if rng.random() < stragglers else rng.lognormvariate(0.0, 0.3))

    async def request() -> None:
        start = now()
        await hedge.execute(call, replace(read, deadline=Deadline.after(60, LoopClock())))
        took.append(now() - start)

    running = []
    for _ in range(calls):
        running.append(asyncio.create_task(request()))
        await asyncio.sleep(0.1)
    await asyncio.gather(*running)

    assert begun <= 1.05 * calls
    if stragglers == 0.02:
        assert sorted(took)[int(0.99 * calls)] < 5.0  # 20.0 without


async def test_lost_firsts_keep_the_measure_honest(read: CallContext):
    """With second calls for nothing, one call in ten a straggler: were the lost ones forgotten, ordinary calls would be hedged soon."""
    rng = Random(3)
    hedge, calls, begun = Hedge(RICH, clock=LoopClock()), 3000, 0

    async def call(ctx: CallContext) -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(rng.uniform(0.9, 1.1) if rng.random() > 0.1 else 20.0)

    for _ in range(calls):
        await hedge.execute(call, replace(read, deadline=Deadline.after(60, LoopClock())))

    # A straggler is hedged, and a tenth of the second calls is one too; ordinary calls are below the quantile.
    assert begun / calls <= 1.12


@given(lengths=st.lists(st.sampled_from([0.1, 1.0, 5.0, 30.0, -1.0]), min_size=1, max_size=150))
def test_no_pattern_of_lengths_gets_more_than_its_share(lengths: list[float]):
    """Calls one after the other, some of which fail (-1): at every moment there were at most a twentieth more than successes."""

    async def traffic() -> None:
        hedge, begun, succeeded = Hedge(HedgeSettings(minimum_calls=5), clock=LoopClock()), 0, 0

        async def call(ctx: CallContext) -> None:
            nonlocal begun
            begun += 1
            await asyncio.sleep(abs(lengths[made]))
            if lengths[made] < 0:
                raise TransientError("503")

        for made in range(len(lengths)):
            try:
                await hedge.execute(call, CallContext("model:a", Deadline.after(60, LoopClock()), is_read_only=True))
                succeeded += 1
            except TransientError:
                pass
            assert begun <= made + 1 + 0.05 * succeeded

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(traffic())


# --- what the second call is given --------------------------------------------------------------------------------------


async def test_both_see_the_callers_context(read: CallContext):
    """Context variables and the call's own context are those of the caller; a change in the second stays there."""
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("the caller's")
    hedge, seen = await trained(read), []

    async def call(ctx: CallContext) -> None:
        seen.append((variable.get(), ctx))
        if len(seen) == 2:
            variable.set("the second's")
            return
        await asyncio.sleep(100)

    await hedge.execute(call, read)

    assert seen == [("the caller's", read)] * 2
    assert variable.get() == "the caller's"


async def test_a_listener_that_fails_hurts_nobody(read: CallContext):
    """Observing never hurts a call."""

    def listener(event: ResilienceEvent) -> None:
        raise RuntimeError("cannot listen")

    hedge = await trained(read, listener=listener)

    assert await hedge.execute(Dependency(100.0, 0.5), read) == 2


async def test_without_arguments_it_is_ready_to_use(read: CallContext):
    """The defaults are the machine's clock and nobody who listens."""
    assert await Hedge().execute(Dependency(0.0), read) == 1


async def test_a_deadline_that_ends_the_call_is_not_hidden(read: CallContext):
    """What the pipeline inside raises passes through."""
    hedge = await trained(read)

    with pytest.raises(DeadlineExceeded):
        await hedge.execute(Dependency((0.1, DeadlineExceeded("model:a"))), read)


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantile": 0.0},
        {"quantile": 1.0},
        {"minimum_calls": 0},
        {"minimum_calls": 300},
        {"floor": -1.0},
        {"ratio": 1.5},
        {"ratio": -0.1},
        {"burst": 0.5},
    ],
    ids=str,
)
def test_nonsense_is_refused(wrong: dict[str, float]):
    """Rules that could not work are not made."""
    with pytest.raises(ValueError, match="a hedge needs"):
        HedgeSettings(**wrong)
