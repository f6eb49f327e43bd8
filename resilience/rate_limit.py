"""How many calls, and how much by their weight, one dependency may have per time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from resilience.clock import Clock, SystemClock
from resilience.context import PATIENCE, CallContext
from resilience.errors import RateLimited, Rejected, Throttled
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent
from resilience.policy import Call, T

LONGEST_WAIT = 1.0
"""Seconds that a call waits for its turn before another way is better: a routing decision has 8 s in all, a second model answers in 1."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a limiter says to one call.

    Args:
        is_allowed: Whether it may go ahead, after `wait`.
        wait: Seconds; if it may not: until it would have been allowed.
        weight: What was taken for it besides one call, in the limiter's units.
    """

    is_allowed: bool
    wait: float
    weight: int


class Limiter(Protocol):
    """The allowance of one dependency; whoever calls the dependency shares it."""

    async def take(self, ctx: CallContext, *, patience: float) -> Grant:
        """Take what one call needs, if it fits within `patience` seconds; answers soon and never fails."""
        ...

    def settle(self, grant: Grant, result: object) -> None:
        """The call returned `result`: correct what was taken for it. Returns at once."""
        ...

    def throttled(self, retry_after: float) -> None:
        """The dependency itself wants no more calls for `retry_after` seconds (0: it did not say how long). Returns at once."""
        ...

    def give_back(self, grant: Grant) -> None:
        """The call never reached the dependency: all of it was taken in vain. Returns at once."""
        ...


class RateLimit:
    """Lets a call through once there is allowance for it; what is too far off is rejected, and sooner where a stand-in is ready.

    Waiting spends the deadline. A call that fails keeps what it took, since the dependency has counted it too; one that a policy
    further in rejects gives it back. Of a 429 the limiter is told, so that others need not ask in vain.

    Args:
        limiter: Keeps the allowance.
        longest_wait: Seconds that a call may wait.
        clock: Sleeps.
        dependency: Name in events.
        listener: Hears of rejections.

    Raises:
        RateLimited: There is no allowance within `longest_wait` or what the deadline leaves.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        longest_wait: float = LONGEST_WAIT,
        clock: Clock | None = None,
        dependency: str = "",
        listener: Listener | None = None,
    ) -> None:
        self._limiter = limiter
        self._longest_wait = longest_wait
        self._clock = clock or SystemClock()
        self._dependency = dependency
        self._tell = Broadcast(listener)

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call in its turn."""
        patience = min(self._longest_wait, ctx.deadline.remaining(), PATIENCE if ctx.has_stand_in else self._longest_wait)
        grant = await self._limiter.take(ctx, patience=patience)
        if not grant.is_allowed:
            self._tell(ResilienceEvent(EventKind.REJECTED, ctx.operation, self._dependency, {"why": RateLimited.code}))
            raise RateLimited(ctx.operation, f"the allowance of {self._dependency} is used up for {grant.wait:.3g} s", grant.wait)
        has_begun = False
        try:
            if grant.wait > 0.0:
                await self._clock.sleep(grant.wait)
            has_begun = True
            result = await call(ctx)
        except BaseException as exc:
            if not has_begun or isinstance(exc, Rejected):
                self._limiter.give_back(grant)
            elif isinstance(exc, Throttled):
                self._limiter.throttled(exc.retry_after or 0.0)
            raise
        self._limiter.settle(grant, result)
        return result
