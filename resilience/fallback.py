"""Something else instead, when the first choice fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from resilience.context import CallContext
from resilience.errors import DependencyError, ResilienceError
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent, why
from resilience.policy import Call, T


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to the same result.

    Args:
        operation: Its name in its context, in errors and in events.
        call: The way; goes through a pipeline of its own.
        is_as_good: Whether its result is worth as much as that of the way before it; then that one does not hold out for long.
    """

    operation: str
    call: Call[Any]
    is_as_good: bool = False


class Fallback:
    """Takes the next way when one fails, while there is time and nobody has seen any output.

    Every way but the last is given an earlier deadline, so that the next always has time left. When all fail, the last error
    is raised; its `__context__` leads to the earlier ones.

    Args:
        alternatives: What to try after the call itself, in this order; they return what the call returns.
        on: Errors after which something else may help. A `DeadlineExceeded` of the earlier deadline is one of them.
        reserve: Share (0..1) of the time left that each way leaves to the next.
        dependency: Name in events.
        listener: Hears of every step from one way to the next: `from`, `to`, `why`.
    """

    def __init__(
        self,
        *alternatives: Alternative,
        on: tuple[type[Exception], ...] = (ResilienceError, DependencyError),
        reserve: float = 0.2,
        dependency: str = "",
        listener: Listener | None = None,
    ) -> None:
        self._alternatives = alternatives
        self._on = on
        self._reserve = reserve
        self._dependency = dependency
        self._tell = Broadcast(listener)

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call, else the first alternative that works."""
        return await self._first(call, ctx, self._alternatives)

    async def _first(self, call: Call[T], ctx: CallContext, rest: Sequence[Alternative]) -> T:
        if not rest:
            return await call(ctx)
        try:
            deadline = ctx.deadline.reserving(self._reserve)
            return await call(replace(ctx, deadline=deadline, has_stand_in=ctx.has_stand_in or rest[0].is_as_good))
        except self._on as exc:
            if ctx.output.has_started or ctx.deadline.is_over:
                raise
            following = rest[0]
            fields = {"from": ctx.operation, "to": following.operation, "why": why(exc)}
            self._tell(ResilienceEvent(EventKind.FALLBACK_TAKEN, ctx.operation, self._dependency, fields))
            # Inside the handler: what fails from here on carries `exc` as its context.
            return await self._first(following.call, replace(ctx, operation=following.operation), rest[1:])
