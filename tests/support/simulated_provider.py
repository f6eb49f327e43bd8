"""A model provider as a queue: so many calls are worked on at once, the others wait inside. For virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random

from resilience.context import CallContext


class SimulatedProvider:
    """Works on `slots` calls at once, first come first served.

    Args:
        slots: Its capacity; may be changed.
        service: Seconds of work on one call.

    Attributes:
        inside: Calls that it has, waiting ones included.
        done: Calls that it has answered.
    """

    def __init__(self, slots: int, service: Callable[[], float]) -> None:
        self.slots = slots
        self.service = service
        self.inside = 0
        self.done = 0
        self._working = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self, ctx: CallContext) -> str:
        """Answer one call."""
        self.inside += 1
        try:
            if self._waiting or self._working >= self.slots:
                turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                await turn
            else:
                self._working += 1
            try:
                await asyncio.sleep(self.service())
                self.done += 1
            finally:
                self._working -= 1
                self._next()
        finally:
            self.inside -= 1
        return "answer"

    def _next(self) -> None:
        while self._waiting and self._working < self.slots:
            turn = self._waiting.popleft()
            if not turn.done():
                self._working += 1
                turn.set_result(None)


def lognormal(rng: Random, median: float, sigma: float, stragglers: float = 0.0) -> Callable[[], float]:
    """Service times around `median` seconds; a share of `stragglers` takes five times as long."""

    def draw() -> float:
        seconds = median * rng.lognormvariate(0.0, sigma)
        return seconds * 5 if rng.random() < stragglers else seconds

    return draw
