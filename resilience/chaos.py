"""Faults on purpose: the innermost policy, off unless configured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from math import exp
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from resilience.clock import Clock, SystemClock
from resilience.context import CallContext
from resilience.errors import PermanentError, Throttled, TransientError
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent
from resilience.policy import Call, T


class _Plan(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Latency(_Plan):
    """How long calls are held up: a lognormal distribution, which has the long tail of real ones.

    Args:
        median: Half of the calls are held up for longer, seconds.
        sigma: Width of the tail; 0: every call is held up for the median. With 0.5 one call in a hundred takes 3.2 times the median.
    """

    median: float = Field(ge=0.0)
    sigma: float = Field(0.0, ge=0.0, le=3.0)


class Fault(_Plan):
    """What goes wrong with some dependencies during some time.

    Args:
        dependency: Whom it befalls, with `*` and `?`: `model:openai/*`, `specialist:billing_support`, `tool:*`.
        latency: How long calls are held up before anything else.
        hangs: Share of the calls that never answer, 0..1.
        errors: Share of the calls that fail, 0..1.
        error: How they fail: `unavailable` (5xx), `throttled` (429) or `connection`.
        retry_after: Seconds that the error asks the caller to wait; None: it does not ask.
        garbage: Share of the calls that answer what nobody can use, 0..1.
        start: When it begins, seconds since the service started; `from` in JSON.
        end: When it is over, seconds since the service started; `to` in JSON; None: never.
    """

    dependency: str = Field(min_length=1)
    latency: Latency | None = None
    hangs: float = Field(0.0, ge=0.0, le=1.0)
    errors: float = Field(0.0, ge=0.0, le=1.0)
    error: Literal["unavailable", "throttled", "connection"] = "unavailable"
    retry_after: float | None = Field(None, ge=0.0)
    garbage: float = Field(0.0, ge=0.0, le=1.0)
    start: float = Field(0.0, alias="from", ge=0.0)
    end: float | None = Field(None, alias="to", gt=0.0)

    @model_validator(mode="after")
    def _fit(self) -> Fault:
        if self.hangs + self.errors + self.garbage > 1.0:
            raise ValueError("hangs, errors and garbage are shares of the same calls: together they must not be more than 1")
        if self.latency is None and not (self.hangs or self.errors or self.garbage):
            raise ValueError("does nothing: give it latency, hangs, errors or garbage")
        if self.end is not None and self.end <= self.start:
            raise ValueError("to must be later than from")
        return self


class ChaosPlan(_Plan):
    """Which faults there are. The same seed and the same calls meet the same faults.

    Args:
        faults: All that match a call befall it, in this order, until one ends it.
        seed: Decides who is hit.
    """

    faults: tuple[Fault, ...] = Field(min_length=1)
    seed: int = 0


def garbage(dependency: str) -> Exception:
    """What an unusable answer of a dependency is, unless the caller knows better: an error that no retry mends."""
    return PermanentError(f"chaos: {dependency} answered garbage")


class Chaos:
    """Holds calls of one dependency up, lets them hang, and fails them, as planned.

    Every call draws the same number of random values whatever befalls it, so that changing one share leaves the luck of the others alone.
    For one event loop.

    Args:
        dependency: Whom it befalls; its name is part of the seed.
        faults: What may befall it, in this order.
        seed: Decides who is hit.
        garbage: Makes the error that an unusable answer of this dependency ends in.
        clock: Measures the windows, and holds calls up.
        started_at: The instant of `clock` from which the windows count, seconds; None: now.
        listener: Hears of every fault: `latency`, `hang`, `unavailable`, `throttled`, `connection`, `garbage`.

    Raises:
        TransientError: The fault `unavailable` or `connection`; `Throttled` for `throttled`.
        Exception: What `garbage` made.
    """

    def __init__(
        self,
        dependency: str,
        faults: Sequence[Fault],
        *,
        seed: int = 0,
        garbage: Callable[[str], Exception] = garbage,
        clock: Clock | None = None,
        started_at: float | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._dependency = dependency
        self._faults = tuple(fault for fault in faults if fnmatchcase(dependency, fault.dependency))
        self._rng = Random(f"{seed}:{dependency}")
        self._garbage = garbage
        self._clock = clock or SystemClock()
        self._started_at = self._clock.monotonic() if started_at is None else started_at
        self._tell = Broadcast(listener)

    @property
    def has_faults(self) -> bool:
        """Whether anything can ever befall this dependency."""
        return bool(self._faults)

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call, unless a fault ends it."""
        passed = self._clock.monotonic() - self._started_at
        # Drawn before anything is awaited: calls that overlap are hit in the order in which they began.
        luck = [(fault, self._rng.random(), self._rng.gauss(0.0, 1.0)) for fault in self._faults]
        for fault, hit, width in luck:
            if fault.start <= passed and (fault.end is None or passed < fault.end):
                await self._befall(fault, hit, width, ctx)
        return await call(ctx)

    async def _befall(self, fault: Fault, hit: float, width: float, ctx: CallContext) -> None:
        if fault.latency is not None:
            self._note("latency", ctx)
            await self._clock.sleep(fault.latency.median * exp(fault.latency.sigma * width))
        if hit < fault.hangs:
            self._note("hang", ctx)
            await asyncio.get_running_loop().create_future()  # until the caller is cancelled
        elif hit < fault.hangs + fault.errors:
            self._note(fault.error, ctx)
            kind = Throttled if fault.error == "throttled" else TransientError
            raise kind(f"chaos: {self._dependency} failed ({fault.error})", fault.retry_after)
        elif hit < fault.hangs + fault.errors + fault.garbage:
            self._note("garbage", ctx)
            raise self._garbage(self._dependency)

    def _note(self, fault: str, ctx: CallContext) -> None:
        self._tell(ResilienceEvent(EventKind.FAULT_INJECTED, ctx.operation, self._dependency, {"fault": fault}))
