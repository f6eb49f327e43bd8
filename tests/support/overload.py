"""Runs of two model calls under open-loop load, in virtual time: what admission and the adaptive limit make of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from app.errors import Overloaded
from app.guards.admission import Admission, Asks, Load
from app.telemetry.metrics import Metrics
from resilience.adaptive import AdaptiveLimit, AdaptiveSettings
from resilience.bulkhead import Bulkhead, BulkheadSettings
from resilience.context import CallContext, Priority, Standing
from resilience.deadline import Deadline
from resilience.errors import ResilienceError
from tests.support.simulated_provider import SimulatedProvider
from tests.support.virtual_time import LoopClock

DEADLINE = 60.0
"""What a run may take, seconds."""


@dataclass
class Source:
    """Who sends runs: how many per second, whose, and how urgent."""

    rate: float
    tenant: str = "acme"
    priority: Priority = Priority.DEFAULT


@dataclass
class Result:
    """What became of the runs of one source that came after the warm-up."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0

    def quantile(self, share: float) -> float:
        """How long that share of the accepted runs took at most."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(len(self.seconds) * share))]


class Scene:
    """A service before a provider.

    Args:
        provider: Who answers.
        rng: The arrivals, and the jitter.
        start: The limit at the beginning.
    """

    def __init__(self, provider: SimulatedProvider, rng: Random, *, start: int = 64) -> None:
        self.provider = provider
        self.adaptive = AdaptiveLimit(AdaptiveSettings(start=start))
        self.bulkhead = Bulkhead("model:x", BulkheadSettings(queue=1000), adaptive=self.adaptive, clock=LoopClock())
        self.admission = Admission(lambda graph_id: [self.bulkhead], Metrics(), rng=rng)
        self._rng = rng
        self._runs = 0

    async def play(self, *sources: Source, seconds: float, warm_up: float) -> list[Result]:
        """Let the sources send runs for that long after the warm-up; returns when all runs have ended."""
        results = [Result() for _ in sources]
        counted_from = asyncio.get_running_loop().time() + warm_up
        async with asyncio.TaskGroup() as group:
            for source, result in zip(sources, results, strict=True):
                group.create_task(self._send(source, result, counted_from, counted_from + seconds))
        return results

    async def _send(self, source: Source, result: Result, counted_from: float, end: float) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while loop.time() < end:
                await asyncio.sleep(self._rng.expovariate(source.rate))
                group.create_task(self._run(source, result if loop.time() >= counted_from else Result()))

    async def _run(self, source: Source, result: Result) -> None:
        self._runs += 1
        standing = Standing(source.tenant, source.priority, request=str(self._runs))
        begun = asyncio.get_running_loop().time()
        try:
            self.admission.admit(Asks(standing.request, source.tenant, "supervisor", source.priority, DEADLINE), Load(executes=True))
        except Overloaded:
            result.refused += 1
            return
        ctx = CallContext("model:x", Deadline.after(DEADLINE, LoopClock()), standing=standing)
        taken: float | None = None
        try:
            await self.bulkhead.execute(self.provider, ctx)
            await self.bulkhead.execute(self.provider, replace(ctx, standing=replace(standing, is_under_way=True)))
            taken = asyncio.get_running_loop().time() - begun
            result.seconds.append(taken)
        except ResilienceError:
            result.failed += 1
        finally:
            self.admission.ran(standing.request, "supervisor", taken)


def play(make: Callable[[], SimulatedProvider], *sources: Source, seed: int, seconds: float = 60.0, warm_up: float = 30.0) -> list[Result]:
    """The scene on a loop of its own."""
    from tests.support.virtual_time import VirtualTimeLoop

    async def main() -> list[Result]:
        return await Scene(make(), Random(seed)).play(*sources, seconds=seconds, warm_up=warm_up)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())
