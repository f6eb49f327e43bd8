"""What the policies cost: CPU per run with all of them against none, and one decision of a breaker.

Two services differ in `RESILIENCE_OFF` (and in a queue that is long enough for the load, see `CROWDED`). Both are alive all the time
and ask the same provider; they take turns in pairs (A B, B A, …), so that a machine that grows slower counts for neither. The price is
the median over the pairs, with the interval that holds the true median in 95 of 100 measurements whatever the distribution is (order
statistics).
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.bench_client import Target, closed_loop
from benchmarks.bench_processes import Server, cores, cpu, pin
from benchmarks.bench_report import markdown
from resilience.breaker import Breaker
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.registry import PolicyName

PAIRS = 20
AT_ONCE = 16
CROWDED = {"QUEUE_SHARE": "100"}
"""Settings of a service under a closed loop: it always asks for more than one core can do, and a service that is left as it is
would refuse the rest. So admission decides as ever, and lets them wait."""
GOAL = 1.05
"""What we want the price to stay below: all policies on, against all off. Printed, never asserted."""
CONFIDENCE = 0.95
DECISIONS = 20_000
"""How many calls one measurement of a breaker makes."""


@dataclass(frozen=True)
class Interval:
    """A median and where it lies for certain (`CONFIDENCE`), or the extremes where there are too few values for that."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Interval:
        """The interval between two order statistics: as many values are cut off at each end as chance allows."""
        ordered = sorted(values)
        count = len(ordered)
        cut = 0
        while 2 * sum(comb(count, k) for k in range(cut + 1)) <= (1 - CONFIDENCE) * 2**count:
            cut += 1
        cut = max(0, cut - 1)
        return cls(median(ordered), ordered[cut], ordered[count - 1 - cut])

    def shown(self, digits: int) -> str:
        """For the table."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


class Service:
    """A service, its Redis and what it is asked."""

    def __init__(self, server: Server, target: Target) -> None:
        self.server = server
        self.target = target
        self.processes = [server.process, server.storage()]

    async def cpu_ms(self, seconds: float) -> float:
        """CPU milliseconds per run, storage included.

        Raises:
            RuntimeError: A run failed; then nothing was measured.
        """
        before = cpu(*self.processes)
        load = await closed_loop(self.target, AT_ONCE, seconds)
        faults = [sample.fault for sample in load.samples if sample.fault]
        if faults:
            raise RuntimeError(f"{len(faults)} of {len(load.samples)} runs failed: {faults[0]}")
        return (cpu(*self.processes) - before) * 1000 / len(load.samples)


async def price(pairs: int, seconds: float, folder: Path, body: dict[str, object], ending: bytes) -> dict[str, Any]:
    """The table, printed, and its figures.

    Args:
        pairs: How often the two services take turns.
        seconds: How long each turn lasts.
        folder: Where the servers keep their data.
        body: What a run is asked.
        ending: What a good answer holds.
    """
    me = psutil.Process()
    with ExitStack() as stack:

        def start(module: str, **variables: str) -> Server:
            server = Server(module, folder, **variables)
            stack.callback(server.close)
            return server

        provider = await start("benchmarks.bench_provider").ready()
        models = {"OPENAI_BASE_URL": f"http://127.0.0.1:{provider.port}/v1", "OPENAI_API_KEY": "stand-in"}
        servers = [start("app.main", **CROWDED, **models), start("app.main", RESILIENCE_OFF=",".join(PolicyName), **models)]
        await asyncio.gather(*(server.ready() for server in servers))
        on, off = (Service(server, Target(server.port, "/threads/{thread}/runs/wait", body, ending)) for server in servers)
        stack.callback(pin, me, os.sched_getaffinity(0))
        here, there = cores()
        for process in (*on.processes, *off.processes):
            pin(process, here)
        for process in (me, provider.process):
            pin(process, there)
        for service in (on, off):
            await service.cpu_ms(seconds)  # warm up
        costs: list[tuple[float, float]] = []
        for turn in range(pairs):
            if turn % 2 == 0:
                with_all = await on.cpu_ms(seconds)
                costs.append((with_all, await off.cpu_ms(seconds)))
            else:
                with_none = await off.cpu_ms(seconds)
                costs.append((await on.cpu_ms(seconds), with_none))
    figures = {
        "all on, CPU ms/run": Interval.of([with_all for with_all, _ in costs]),
        "all off, CPU ms/run": Interval.of([with_none for _, with_none in costs]),
        "price, on ÷ off": Interval.of([with_all / with_none for with_all, with_none in costs]),
        "a breaker's decision, µs": Interval.of([await decision() * 1e6 for _ in range(pairs)]),
    }
    rows = [[name, figure.shown(3 if "÷" in name else 2)] for name, figure in figures.items()]
    print(f"### policies\n\n{markdown(['figure', 'median (interval)'], rows)}\n")
    print(f"{pairs} pairs at {AT_ONCE} at once; the goal is a price of at most {GOAL:.2f}\n", flush=True)
    return {"pairs": costs, **{name: asdict(figure) for name, figure in figures.items()}}


async def decision() -> float:
    """Seconds that a closed breaker adds to a call that succeeds at once: admitting it and noting how it ended."""
    breaker = Breaker("model:stand-in")
    ctx = CallContext("model:stand-in", Deadline.after(3600.0))

    async def instantly(ctx: CallContext) -> None:
        return None

    begun = time.perf_counter()
    for _ in range(DECISIONS):
        await instantly(ctx)
    bare = time.perf_counter()
    for _ in range(DECISIONS):
        await breaker.execute(instantly, ctx)
    guarded = time.perf_counter()
    return (guarded - bare - (bare - begun)) / DECISIONS
