"""Whatever happens to a breaker, in whatever order."""

import asyncio
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience.breaker import Breaker, BreakerSettings, BreakerState
from resilience.context import CallContext, Output
from resilience.deadline import Deadline
from resilience.errors import CircuitOpen, Throttled, TransientError
from resilience.testing import FakeClock

RULES = BreakerSettings(consecutive_failures=3, slow_call=2.0, minimum_calls=4, open_time=30.0, open_time_cap=100.0, probes=2)
ENDS = {"succeed": None, "fail": TransientError("503"), "neutral": Throttled("429"), "cancel": asyncio.CancelledError()}

steps = st.lists(
    st.one_of(
        st.just(("begin", 0)),
        st.tuples(st.sampled_from(sorted(ENDS)), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(1, 120)),
        st.tuples(st.sampled_from(["isolate", "release", "let a probe be due"]), st.just(0)),
        st.tuples(st.just("adopt"), st.sampled_from(list(BreakerState)), st.integers(0, 400), st.integers(0, 40)),
    ),
    max_size=60,
)


class Play:
    """A breaker, the calls that it has admitted, and what must hold of both after every step."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = Breaker("model:a", RULES, clock=self.clock, rng=Random(1))
        self.ctx = CallContext("model:a", Deadline.after(1e9, self.clock))
        self.under_way: list[tuple[asyncio.Task[str], asyncio.Future[str], object]] = []
        self.era: object = object()  # the state's last change
        self.is_isolated = False

    async def do(self, what: str, *how) -> None:
        before, admits = self.breaker.state, self.breaker.is_admitting
        if what == "begin":
            is_admitted = await self._begin()
            assert is_admitted is admits, "`is_admitting` must say what happens to the next call"
            assert not (is_admitted and self.is_isolated)
        elif what == "wait":
            self.clock.advance(how[0])
        elif what == "adopt":
            self.breaker.adopt(how[0], seconds=float(how[1]), openings=how[2], reason="elsewhere")
        elif what == "let a probe be due":
            self.breaker.adopt(BreakerState.OPEN, seconds=5.0, openings=1)
            self.clock.advance(5.0)
        elif what in ("isolate", "release"):
            getattr(self.breaker, what)()
        elif self.under_way:
            await self._end(self.under_way.pop(how[0] % len(self.under_way)), what)
        self._check(what, how, before)

    def _check(self, what: str, how: tuple, before: BreakerState) -> None:
        breaker = self.breaker
        if what == "isolate" or (what == "adopt" and how[0] is BreakerState.ISOLATED):
            self.is_isolated = True
        elif what == "release" or (what in ("adopt", "let a probe be due") and breaker.state is not BreakerState.ISOLATED):
            self.is_isolated = False
        assert (breaker.state is BreakerState.ISOLATED) is self.is_isolated, f"{what} must not end or begin isolation"
        if breaker.state is not before and what != "begin":  # which has begun the era itself
            self.era = object()
        probes = [call for call in self.under_way if call[2] is self.era]
        if breaker.state is BreakerState.HALF_OPEN:
            assert len(probes) <= RULES.probes
            assert breaker.is_admitting is (len(probes) < RULES.probes)
        assert 0.0 <= breaker.retry_in() <= RULES.open_time_cap
        assert (breaker.retry_in() > 0.0) is (breaker.state is BreakerState.OPEN and not breaker.is_admitting)
        counts = breaker.snapshot()
        assert 0 <= counts.recent_failures + counts.recent_slow <= counts.recent_calls

    async def _begin(self) -> bool:
        end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def call(ctx: CallContext) -> str:
            return await end

        state = self.breaker.state
        task = asyncio.create_task(self.breaker.execute(call, replace(self.ctx, output=Output())))
        await asyncio.sleep(0)
        if task.done():
            with pytest.raises(CircuitOpen):
                task.result()
            return False
        if self.breaker.state is not state:
            self.era = object()
        self.under_way.append((task, end, self.era))
        return True

    async def _end(self, call: tuple[asyncio.Task[str], asyncio.Future[str], object], how: str) -> None:
        task, end, _ = call
        error = ENDS[how]
        if how == "cancel":
            task.cancel()
        elif isinstance(error, Exception):
            end.set_exception(error)
        else:
            end.set_result("answer")
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert type(result) is (str if error is None else type(error))

    async def leave(self) -> None:
        for call in self.under_way:
            await self._end(call, "cancel")


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(steps)
def test_never_more_probes_than_allowed_and_nobody_past_an_open_or_isolated_breaker(script: list[tuple]):
    """In any order of calls, ends, time, operators and other processes; what is shown is what happens."""

    async def run() -> None:
        play = Play()
        for step in script:
            await play.do(*step)
        await play.leave()

    asyncio.run(run())
