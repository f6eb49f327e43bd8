"""Measures what a run costs: `python -m benchmarks.bench` (about 9 minutes; `--quick` about 2, for a first look).

The price of the policies comes first (see `benchmarks.bench_policies`). Then three workloads, each on the service and on the floor
(see `benchmarks.floor`), in rounds that take turns (ABAB…):

    two-calls    the supervisor graph; the provider is asked twice, and answers at once
    offline      the supervisor graph with the offline model
    conformance  the conformance graph, whose model only echoes: what is left is the engine

At the end comes what a page of a thread search costs with few and with many threads (see `benchmarks.bench_threads`).

Servers and Redis are on one core, client and provider on another. Nothing is asserted. The tables go to standard output, all
figures to `benchmarks/out/`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks import bench_policies, bench_threads
from benchmarks.bench_client import Load, Target, burst, closed_loop
from benchmarks.bench_processes import PeakMemory, Server, cores, cpu, pin, resident
from benchmarks.bench_report import Round, Summary, as_json, stream_table, summarise, wait_table

OUT = Path(__file__).parent / "out"
QUESTION = "Why was I charged a fee for my transfer?"
INPUT = {"messages": [{"role": "user", "content": QUESTION}]}
POLICIES, THREADS = "policies", "threads"
PACKAGES = ("langgraph", "langchain-core", "langchain-openai", "openai", "fastapi", "uvicorn", "redis", "pydantic")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Args:
        concurrencies: Runs at once that are waited for.
        streams: Streams at once.
        rounds: Rounds of waiting per concurrency.
        stream_rounds: Rounds per number of streams.
        seconds: How long a round of waiting lasts.
        workloads: Which of `WORKLOADS`.
        pairs: How often the service with and the one without policies take turns; 0: not at all.
        searches: How often each search of threads is asked; 0: none is.
        threads: How many threads "many" are.
    """

    concurrencies: tuple[int, ...] = (1, 16, 64)
    streams: tuple[int, ...] = (100, 500)
    rounds: int = 5
    stream_rounds: int = 2
    seconds: float = 1.2
    workloads: tuple[str, ...] = ("two-calls", "offline", "conformance")
    pairs: int = bench_policies.PAIRS
    searches: int = 200
    threads: int = bench_threads.LARGE


QUICK = Plan(rounds=2, stream_rounds=1, seconds=1.0, pairs=5, searches=50)


@dataclass(frozen=True)
class Workload:
    """A graph, and what it is compared with.

    Args:
        graph: The graph, on the service and on the floor.
        others: Further routes of the floor.
        ending: What a good answer holds.
        has_provider: Whether models are asked over HTTP.
    """

    graph: str
    others: tuple[str, ...] = ()
    ending: bytes = b""
    has_provider: bool = False


WORKLOADS = {
    "two-calls": Workload("supervisor", ("plain", "sdk"), b"confirmed", has_provider=True),
    "offline": Workload("supervisor", (), b"fee"),
    "conformance": Workload("conformance", (), b"transfer"),
}


@dataclass(frozen=True)
class System:
    """One of those that take turns."""

    name: str
    server: Server
    storage: psutil.Process | None
    wait: Target
    stream: Target


class Bench:
    """The servers of one workload, and what loads them.

    Args:
        systems: Who takes turns; the second one is the reference.
        loaders: The processes that make the load: this one, and the provider.
    """

    def __init__(self, systems: list[System], loaders: list[psutil.Process]) -> None:
        self._systems = systems
        self._loaders = loaders
        self._idle: dict[str, int] = {}

    async def measure(self, plan: Plan) -> dict[str, Any]:
        """The tables, printed, and their figures. Streams come first: later, memory is left over that they could use."""

        def wait(system: System, size: int) -> Awaitable[Load]:
            return closed_loop(system.wait, size, plan.seconds)

        def stream(system: System, size: int) -> Awaitable[Load]:
            return burst(system.stream, size)

        for load in (wait, stream):
            await self._rounds(1, load, 8)  # warm up
        self._idle = {system.name: resident(system.server.process) for system in self._systems}
        streams = {size: await self._rounds(plan.stream_rounds, stream, size) for size in plan.streams}
        waits = {size: await self._rounds(plan.rounds, wait, size) for size in plan.concurrencies}
        print(f"{wait_table(waits)}\n\n{stream_table(streams)}\n", flush=True)
        return {"wait": as_json(waits), "stream": as_json(streams)}

    async def _rounds(self, count: int, load: Callable[[System, int], Awaitable[Load]], size: int) -> list[Summary]:
        rounds: dict[str, list[Round]] = {system.name: [] for system in self._systems}
        for _ in range(count):
            for system in self._systems:
                rounds[system.name].append(await self._round(system, load(system, size)))
        return summarise(rounds, self._systems[1].name)

    async def _round(self, system: System, load: Awaitable[Load]) -> Round:
        storage = [system.storage] if system.storage else []
        groups = [system.server.process], storage, self._loaders
        before = [cpu(*group) for group in groups]
        async with PeakMemory(system.server.process) as memory:
            seen = await load
        server_cpu, storage_cpu, load_cpu = (cpu(*group) - earlier for group, earlier in zip(groups, before, strict=True))
        return Round(seen, server_cpu, storage_cpu, load_cpu, memory.bytes - self._idle.get(system.name, memory.bytes))


async def measure(name: str, plan: Plan, folder: Path) -> dict[str, Any]:
    """One workload on servers of its own."""
    workload = WORKLOADS[name]
    loaders, models = [psutil.Process()], {}
    with ExitStack() as stack:

        def start(module: str, **variables: str) -> Server:
            server = Server(module, folder, **variables)
            stack.callback(server.close)
            return server

        if workload.has_provider:
            provider = await start("benchmarks.bench_provider").ready()
            loaders.append(provider.process)
            models = {"OPENAI_BASE_URL": f"http://127.0.0.1:{provider.port}/v1", "OPENAI_API_KEY": "stand-in"}
        ours = start("app.main", CONFORMANCE_GRAPH="true", RATE_LIMIT_RPM="0", **bench_policies.CROWDED, **models)
        floors = {route: start("benchmarks.floor", **models) for route in (workload.graph, *workload.others)}
        await asyncio.gather(*(server.ready() for server in (ours, *floors.values())))
        systems = [_ours(workload, ours), *(_floor(workload, server, route) for route, server in floors.items())]
        stack.callback(pin, loaders[0], os.sched_getaffinity(0))
        _separate(systems, loaders)
        print(f"### {name}\n\nrate limits: off (RATE_LIMIT_RPM=0, no PROVIDER_LIMITS)\n", flush=True)
        return await Bench(systems, loaders).measure(plan)


def _separate(systems: list[System], loaders: list[psutil.Process]) -> None:
    """Servers and storage on one core, the load on another."""
    here, there = cores()
    for system in systems:
        pin(system.server.process, here)
        if system.storage is not None:
            pin(system.storage, here)
    for loader in loaders:
        pin(loader, there)


def _ours(workload: Workload, server: Server) -> System:
    body: dict[str, object] = {"assistant_id": workload.graph, "input": INPUT, "if_not_exists": "create"}
    streamed = {**body, "stream_mode": ["messages-tuple"]}
    return System(
        "capataz",
        server,
        server.storage(),
        Target(server.port, "/threads/{thread}/runs/wait", body, workload.ending),
        Target(server.port, "/threads/{thread}/runs/stream", streamed, b"event: end"),
    )


def _floor(workload: Workload, server: Server, route: str) -> System:
    body: dict[str, object] = {"input": INPUT}
    return System(
        "floor" if route == workload.graph else f"floor: {route}",
        server,
        None,
        Target(server.port, f"/{route}/wait", body, workload.ending),
        Target(server.port, f"/{route}/stream", body, b"event: end"),
    )


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


async def bench(plan: Plan) -> dict[str, Any]:
    """The policies and every workload of the plan, one after the other."""
    figures: dict[str, Any] = {"machine": machine(), "workloads": {}}
    if plan.pairs:
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            body: dict[str, object] = {"assistant_id": "supervisor", "input": INPUT, "if_not_exists": "create"}
            figures["policies"] = await bench_policies.price(plan.pairs, plan.seconds, Path(folder), body, WORKLOADS["two-calls"].ending)
    for name in plan.workloads:
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            figures["workloads"][name] = await measure(name, plan, Path(folder))
    if plan.searches:
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            figures["threads"] = await bench_threads.measure(Path(folder), large=plan.threads, times=plan.searches)
    return figures


def main(arguments: list[str]) -> None:
    """Measure, print the tables and write the figures."""
    parser = argparse.ArgumentParser(description="What a run costs.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--workload", action="append", choices=[POLICIES, *WORKLOADS, THREADS], help="only this one; may be repeated")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    if options.workload:
        workloads = tuple(name for name in options.workload if name in WORKLOADS)
        pairs, searches = (count if name in options.workload else 0 for name, count in ((POLICIES, plan.pairs), (THREADS, plan.searches)))
        plan = replace(plan, workloads=workloads, pairs=pairs, searches=searches)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(bench(plan))
    OUT.mkdir(exist_ok=True)
    path = OUT / f"bench-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(figures, indent=1))
    print(f"{json.dumps(figures['machine'])}\n\nall figures: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
