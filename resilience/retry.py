"""The one retry of the house."""

from __future__ import annotations

from functools import partial
from itertools import count
from random import Random
from typing import Any

from tenacity import AsyncRetrying, RetryCallState

from resilience.clock import Clock, SystemClock
from resilience.context import PATIENCE, CallContext
from resilience.errors import AttemptTimedOut, DeadlineExceeded, PermanentError, Rejected, TransientError
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent, why
from resilience.policy import Call, T
from resilience.retry_budget import RetryBudget

_NEVER = (Rejected, PermanentError, DeadlineExceeded)


def backoff(attempt: int, *, base: float, cap: float, rng: Random) -> float:
    """Seconds to wait before attempt `attempt + 1`, with full jitter.

    Args:
        attempt: Attempts already made, from 1.
        base: Upper bound of the first wait, seconds; it doubles with every attempt.
        cap: Upper bound of any wait, seconds.
        rng: Source of the jitter.

    Source: ADR-0003.
    """
    return rng.uniform(0.0, min(cap, base * 2.0 ** (attempt - 1)))


class Retry:
    """Tries again after errors that may pass, while the deadline and the budget allow it and nobody has seen any output.

    The call must be one that may be made twice. Gives up with the last error, unchanged. Never repeats what was rejected,
    what is permanent or cancelled, or what a passed deadline ended, whatever `on` says. Where something as good stands ready
    (`ctx.has_stand_in`) only quick failures are repeated: not an attempt that timed out, nor one that would have to wait (ADR-0024).

    Args:
        attempts: Most attempts, the first included.
        on: Errors that may pass.
        base: Upper bound of the first wait, seconds.
        cap: Upper bound of any wait of our own choice, seconds.
        retry_after_cap: Upper bound of a wait that the error asked for (`retry_after`), seconds.
        patience: Longest wait that an error may ask for where something as good stands ready, seconds.
        budget: How many retries all callers of the dependency have together; None: no bound.
        rng: Source of the jitter.
        clock: Sleeps.
        dependency: Name in events.
        listener: Hears of every retry before its wait, and of those that the budget refused.
    """

    def __init__(
        self,
        attempts: int = 3,
        *,
        on: tuple[type[Exception], ...] = (TransientError, AttemptTimedOut),
        base: float = 0.25,
        cap: float = 5.0,
        retry_after_cap: float = 30.0,
        patience: float = PATIENCE,
        budget: RetryBudget | None = None,
        rng: Random | None = None,
        clock: Clock | None = None,
        dependency: str = "",
        listener: Listener | None = None,
    ) -> None:
        self._attempts = attempts
        self._on = on
        self._base = base
        self._cap = cap
        self._retry_after_cap = retry_after_cap
        self._patience = patience
        self._budget = budget
        self._rng = rng or Random()
        self._clock = clock or SystemClock()
        self._dependency = dependency
        self._tell = Broadcast(listener)

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call until it succeeds or may not be tried again; each attempt gets its number in its context."""
        if self._budget is not None:
            self._budget.note_call()
        try:
            return await call(ctx.with_attempt(1))
        except self._on as exc:
            first = exc
        return await self._again(call, ctx, first)

    async def _again(self, call: Call[T], ctx: CallContext, first: Exception) -> T:
        """Let tenacity decide what follows a first failure; a call that works at once does not pay for it."""
        numbers = count(1)

        async def attempt() -> T:
            number = next(numbers)
            if number == 1:
                raise first
            return await call(ctx.with_attempt(number))

        # One object per call: tenacity keeps the state of the iteration in it.
        retrying = AsyncRetrying(
            retry=partial(self._may_pass, ctx),
            wait=self._wait,
            stop=partial(self._must_stop, ctx),
            before_sleep=partial(self._announce, ctx),
            sleep=self._clock.sleep,
            reraise=True,
        )
        return await retrying(attempt)

    def _may_pass(self, ctx: CallContext, state: RetryCallState) -> bool:
        error = _error(state)
        if not isinstance(error, self._on) or isinstance(error, _NEVER) or ctx.output.has_started:
            return False
        return not (ctx.has_stand_in and self._costs_time(error))

    def _costs_time(self, error: Exception) -> bool:
        """Whether another attempt would cost as much time as whoever stands ready needs for an answer."""
        return isinstance(error, AttemptTimedOut) or (getattr(error, "retry_after", None) or 0.0) > self._patience

    def _wait(self, state: RetryCallState) -> float:
        asked: float | None = getattr(_error(state), "retry_after", None)
        if asked is None:
            return backoff(state.attempt_number, base=self._base, cap=self._cap, rng=self._rng)
        # The jitter keeps callers that were told the same second from coming back together.
        return min(max(asked, 0.0), self._retry_after_cap) + self._rng.uniform(0.0, self._base)

    def _must_stop(self, ctx: CallContext, state: RetryCallState) -> bool:
        if state.attempt_number >= self._attempts or state.upcoming_sleep >= ctx.deadline.remaining():
            return True
        # Asked last and before the wait: what would not be tried anyway spends nothing, and who is refused does not wait for it.
        if self._budget is None or self._budget.take():
            return False
        self._tell(ResilienceEvent(EventKind.RETRY_REFUSED, ctx.operation, self._dependency, _fields(state)))
        return True

    def _announce(self, ctx: CallContext, state: RetryCallState) -> None:
        fields = {**_fields(state), "wait": state.upcoming_sleep}
        self._tell(ResilienceEvent(EventKind.RETRY_SCHEDULED, ctx.operation, self._dependency, fields))


def _fields(state: RetryCallState) -> dict[str, Any]:
    error = _error(state)
    assert error is not None  # asked for only after a failure
    return {"attempt": state.attempt_number, "why": why(error)}


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
