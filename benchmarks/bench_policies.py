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
AT_ONCE = (1, 16)
"""Runs at once: the first load is the price of the policies; the second is more than one core can do, so that calls also wait in the
bulkhead, whose limit takes our own core for the dependency's."""
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

    async def cpu_ms(self, at_once: int, seconds: float) -> float:
        """CPU milliseconds per run, storage included.

        Raises:
            RuntimeError: A run failed; then nothing was measured.
        """
        before = cpu(*self.processes)
        load = await closed_loop(self.target, at_once, seconds)
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
            await service.cpu_ms(AT_ONCE[-1], seconds)  # warm up
        costs = {at_once: await _pairs(on, off, pairs, at_once, seconds) for at_once in AT_ONCE}
    decisions = Interval.of([await decision() * 1e6 for _ in range(pairs)])
    loads = {
        at_once: {
            "on": Interval.of([with_all for with_all, _ in measured]),
            "off": Interval.of([with_none for _, with_none in measured]),
            "price": Interval.of([with_all / with_none for with_all, with_none in measured]),
        }
        for at_once, measured in costs.items()
    }
    rows = [[f"{at_once}", load["on"].shown(2), load["off"].shown(2), load["price"].shown(3)] for at_once, load in loads.items()]
    head = ["at once", "all on, CPU ms/run", "all off, CPU ms/run", "price, on ÷ off"]
    print(f"### policies\n\n{markdown(head, rows)}\n")
    print(f"{pairs} pairs; the goal is a price of at most {GOAL:.2f}. A breaker's decision: {decisions.shown(2)} µs\n", flush=True)
    return {
        "pairs": {f"{at_once}": measured for at_once, measured in costs.items()},
        "loads": {f"{at_once}": {name: asdict(figure) for name, figure in load.items()} for at_once, load in loads.items()},
        "decision_us": asdict(decisions),
    }


async def _pairs(on: Service, off: Service, pairs: int, at_once: int, seconds: float) -> list[tuple[float, float]]:
    """CPU milliseconds per run with and without policies, so many times."""
    costs: list[tuple[float, float]] = []
    for turn in range(pairs):
        if turn % 2 == 0:
            with_all = await on.cpu_ms(at_once, seconds)
            costs.append((with_all, await off.cpu_ms(at_once, seconds)))
        else:
            with_none = await off.cpu_ms(at_once, seconds)
            costs.append((await on.cpu_ms(at_once, seconds), with_none))
    return costs


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
