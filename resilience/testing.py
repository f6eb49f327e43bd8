"""Stand-ins for tests of guarded calls: a clock that is moved by hand, and a dependency that fails as told."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from resilience.context import CallContext

R = TypeVar("R")


class FakeClock:
    """A clock that stands still until `advance`; who sleeps on it wakes when the time has come. Starts at 0."""

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._now

    def cpu(self) -> float:
        """No time passes here by computing."""
        return 0.0

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was advanced by `seconds`; at once if that is not more than 0."""
        if seconds <= 0.0:
            return
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, awake))
        await awake

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Sleepers run when the caller next awaits."""
        self._now += seconds
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._now]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._now]
        for _, awake in sorted(due, key=lambda sleeper: sleeper[0]):
            if not awake.done():
                awake.set_result(None)


class ScriptedCall(Generic[R]):
    """A dependency that raises its errors in order, then returns its result for ever.

    Attributes:
        contexts: What each attempt was given; its length is the number of attempts that reached the dependency.
    """

    def __init__(self, errors: list[Exception], result: R) -> None:
        self._errors = errors
        self._result = result
        self.contexts: list[CallContext] = []

    async def __call__(self, ctx: CallContext) -> R:
        """Fail or return, as the script says."""
        self.contexts.append(ctx)
        if len(self.contexts) <= len(self._errors):
            raise self._errors[len(self.contexts) - 1]
        return self._result

    @property
    def attempts(self) -> int:
        """How many attempts reached the dependency."""
        return len(self.contexts)


def fail_then_return(times: int, error: Exception, result: R) -> ScriptedCall[R]:
    """A call that raises `error` this many times, then returns `result`."""
    return ScriptedCall([error] * times, result)
