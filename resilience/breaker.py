"""A dependency that keeps failing is left alone for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import pybreaker

from resilience.clock import Clock, SystemClock
from resilience.context import CallContext
from resilience.errors import AttemptTimedOut, CircuitOpen, Throttled, TransientError
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent, why
from resilience.policy import Call, T
from resilience.rolling import RollingCounts


class BreakerState(StrEnum):
    """Closed lets through, open refuses, half_open tries, isolated is open by hand until it is released."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


def is_ill(error: Exception) -> bool:
    """Whether `error` says that the dependency is ill: it broke or hung. "Too many requests" is not illness (design D7)."""
    return isinstance(error, TransientError | AttemptTimedOut) and not isinstance(error, Throttled)


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When one dependency is left alone, and for how long. Either rule opens.

    Args:
        consecutive_failures: Opens after this many failures in a row.
        failure_rate: Opens on a failure that brings the share of failures in `window` to this, 0..1.
        window: How far back the rate looks, seconds.
        minimum_calls: Fewest results in `window` for the rate to mean anything.
        open_time: Seconds until an open breaker lets a probe through.
        probes: Most probes under way at once; the first that succeeds closes, the first that fails opens again.
        counts: Which errors are failures. All others are neutral: neither failure nor success.
    """

    consecutive_failures: int = 5
    failure_rate: float = 0.5
    window: float = 30.0
    minimum_calls: int = 10
    open_time: float = 30.0
    probes: int = 1
    counts: Callable[[Exception], bool] = is_ill


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """A breaker at one moment, for display.

    Args:
        dependency: Whose breaker it is.
        state: Its state.
        is_admitting: Whether it would let a call through now.
        consecutive_failures: Failures since the last success.
        recent_calls: Results in the window, neutral ones left out.
        recent_failures: The failures among them.
        retry_in: Seconds until a probe may pass; 0.0 unless open.
        last_failure: Code of the last failure; None: there was none.
    """

    dependency: str
    state: BreakerState
    is_admitting: bool
    consecutive_failures: int
    recent_calls: int
    recent_failures: int
    retry_in: float
    last_failure: str | None


class Breaker:
    """Refuses calls while their dependency is ill, and finds out by a few probes when it is well again.

    Deciding costs microseconds and never waits. Results of calls admitted before the last change of state are ignored, and
    cancellation is neutral. For one event loop.

    Args:
        dependency: Whose breaker it is.
        settings: Its rules.
        clock: Measures window and open time.
        listener: Hears of transitions and rejections.

    Raises:
        CircuitOpen: Not admitted; `retry_after` is set while open and None where nobody can know.

    Source: ADR-0004 (why pybreaker's state machine, driven from outside).
    """

    def __init__(
        self,
        dependency: str,
        settings: BreakerSettings | None = None,
        *,
        clock: Clock | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._dependency = dependency
        self._settings = settings = settings or BreakerSettings()
        self._clock = clock or SystemClock()
        self._tell = Broadcast(listener)
        self._machine = pybreaker.CircuitBreaker(fail_max=settings.consecutive_failures, throw_new_error_on_trip=False)
        self._recent = RollingCounts(settings.window)
        self._state = BreakerState.CLOSED
        self._era = 0  # grows with every change of state; a call's result counts only in the era that admitted it
        self._opened_at = 0.0
        self._probing = 0
        self._last_failure: str | None = None

    @property
    def dependency(self) -> str:
        """Whose breaker it is."""
        return self._dependency

    @property
    def state(self) -> BreakerState:
        """The state; open turns into half_open when a call arrives, not by itself: ask `is_admitting` before offering a dependency."""
        return self._state

    @property
    def is_admitting(self) -> bool:
        """Whether a call would be let through now."""
        if self._state is BreakerState.OPEN:
            return self.retry_in() <= 0.0
        if self._state is BreakerState.HALF_OPEN:
            return self._probing < self._settings.probes
        return self._state is BreakerState.CLOSED

    def retry_in(self) -> float:
        """Seconds until a probe may pass; 0.0 unless open."""
        if self._state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._opened_at + self._settings.open_time - self._clock.monotonic())

    def snapshot(self) -> BreakerSnapshot:
        """How it stands now."""
        calls, failures = self._recent.totals(self._clock.monotonic())
        return BreakerSnapshot(
            dependency=self._dependency,
            state=self._state,
            is_admitting=self.is_admitting,
            consecutive_failures=self._machine.fail_counter,
            recent_calls=calls,
            recent_failures=failures,
            retry_in=self.retry_in(),
            last_failure=self._last_failure,
        )

    def isolate(self) -> None:
        """Refuse every call until `release`."""
        if self._state is BreakerState.ISOLATED:
            return
        self._machine.open()
        self._move(BreakerState.ISOLATED, self._dependency, "by_hand")

    def release(self) -> None:
        """Let calls through again, whether isolated, open or half_open."""
        if self._state is BreakerState.CLOSED:
            return
        self._machine.close()
        self._move(BreakerState.CLOSED, self._dependency, "by_hand")

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call if it is admitted, and learn from how it ends."""
        era = self._admit(ctx)
        try:
            result = await call(ctx)
        except Exception as exc:
            if era == self._era and self._settings.counts(exc):
                self._fail(exc, ctx)
            raise
        else:
            if era == self._era:
                self._succeed(ctx)
            return result
        finally:
            if era == self._era and self._state is BreakerState.HALF_OPEN:
                self._probing -= 1

    def _admit(self, ctx: CallContext) -> int:
        if self._state is not BreakerState.CLOSED:
            if not self.is_admitting:
                self._tell(ResilienceEvent(EventKind.REJECTED, ctx.operation, self._dependency, {"why": CircuitOpen.code}))
                raise CircuitOpen(ctx.operation, f"breaker of {self._dependency} is {self._state}", self.retry_in() or None)
            if self._state is BreakerState.OPEN:
                self._machine.half_open()
                self._move(BreakerState.HALF_OPEN, ctx.operation, "open_time_over")
            self._probing += 1
        return self._era

    def _succeed(self, ctx: CallContext) -> None:
        self._recent.add(self._clock.monotonic(), is_failure=False)
        self._machine.call(_nothing)
        self._follow(ctx, "probe_succeeded")

    def _fail(self, error: Exception, ctx: CallContext) -> None:
        self._last_failure = why(error)
        now = self._clock.monotonic()
        self._recent.add(now, is_failure=True)
        # pybreaker gets an error of ours, so that the caller's keeps its own traceback.
        with suppress(_Failure):
            self._machine.call(_fail)
        calls, failures = self._recent.totals(now)
        if calls >= self._settings.minimum_calls and failures >= self._settings.failure_rate * calls:
            self._machine.open()
        self._follow(ctx, self._last_failure)

    def _follow(self, ctx: CallContext, reason: str) -> None:
        state = _STATES[self._machine.current_state]
        if state is not self._state:
            self._move(state, ctx.operation, reason)

    def _move(self, state: BreakerState, operation: str, reason: str) -> None:
        old, self._state = self._state, state
        self._era += 1
        self._probing = 0
        if state is BreakerState.OPEN:
            self._opened_at = self._clock.monotonic()
        if state is BreakerState.CLOSED:
            self._recent = RollingCounts(self._settings.window)
        fields = {"old": old.value, "new": state.value, "retry_in": self.retry_in(), "why": reason}
        self._tell(ResilienceEvent(EventKind.BREAKER_TRANSITION, operation, self._dependency, fields))


_STATES = {
    pybreaker.STATE_CLOSED: BreakerState.CLOSED,
    pybreaker.STATE_OPEN: BreakerState.OPEN,
    pybreaker.STATE_HALF_OPEN: BreakerState.HALF_OPEN,
}


class _Failure(Exception):
    """What pybreaker is shown of a failure."""


def _nothing() -> None:
    """What pybreaker is shown of a success."""


def _fail() -> None:
    raise _Failure
