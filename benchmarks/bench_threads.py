"""What a page of a thread search costs with a hundred threads and with a hundred thousand: one service, over HTTP.

The threads are written straight into the service's Redis, records and index, by the same classes that the service writes them with.
Then the same searches are asked, one after the other, and their medians compared.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from redis.asyncio import Redis

from app.storage.redis.connection import connect
from app.storage.redis.embedded import EmbeddedRedis
from app.storage.redis.keys import ThreadKeys
from app.storage.redis.thread_index import Indexed, ThreadIndex
from app.storage.redis.threads import THREAD_TTL, new_thread, thread_fields
from benchmarks.bench_processes import Server, cores, cpu, pin

TENANT = "default"
GROUP = 500
"""Threads that are written in one go."""
SMALL, LARGE = 100, 100_000
SEARCHES: dict[str, dict[str, Any]] = {
    "first page": {},
    "first page, no states": {"select": ["thread_id", "metadata", "status", "updated_at"]},
    "graph_id": {"metadata": {"graph_id": "supervisor"}},
    "graph_id, by updated_at": {"metadata": {"graph_id": "supervisor"}, "sort_by": "updated_at"},
    "assistant_id (1 in 2)": {"metadata": {"assistant_id": "one"}},
    "one customer (10 threads)": {"metadata": {"customer": "c-0"}},
    "status (1 in 10)": {"status": "interrupted"},
    "customer and status": {"metadata": {"customer": "c-0"}, "status": "idle"},
    "graph_id and status": {"metadata": {"graph_id": "supervisor"}, "status": "interrupted"},
    "by state_updated_at": {"sort_by": "state_updated_at"},
    "last page": {"offset": -10},
}


async def fill(client: Redis, first: int, count: int, seed: int) -> None:
    """Write threads `first` to `count`; ten belong to each customer, one in ten asks something."""
    rng, index, start = random.Random(seed), ThreadIndex(client), datetime.now(UTC) - timedelta(days=20)
    for begin in range(first, count, GROUP):
        entries = []
        async with client.pipeline(transaction=False) as pipe:
            for n in range(begin, min(begin + GROUP, count)):
                metadata = {"graph_id": "supervisor", "assistant_id": ("one", "two")[n % 2], "customer": f"c-{n // 10}", "n": n}
                thread_id = f"{rng.getrandbits(128):032x}"
                thread_id = f"{thread_id[:8]}-{thread_id[8:12]}-4{thread_id[13:16]}-8{thread_id[17:20]}-{thread_id[20:]}"
                at = start + timedelta(seconds=n)
                thread = replace(
                    new_thread(thread_id, metadata),
                    created_at=at,
                    updated_at=at,
                    state_updated_at=at,
                    status="interrupted" if n % 10 == 0 else "idle",
                )
                key = ThreadKeys(TENANT, thread_id).thread()
                pairs = [*thread_fields(thread), "revision", "1"]
                pipe.hset(key, mapping=dict(zip(pairs[::2], pairs[1::2], strict=True)))  # type: ignore[arg-type]
                pipe.pexpire(key, int(THREAD_TTL * 1000))
                entries.append(Indexed(thread, 1, THREAD_TTL, 0, is_held=False))
            await pipe.execute()
        await index.write(TENANT, entries, time.time())


async def settled(client: Redis) -> None:
    """Return once Redis does not rewrite its file any more, which it does beside its work after so much was written."""
    while True:
        state: Any = await client.info("persistence")
        if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
            return
        await asyncio.sleep(0.2)


def asked(http: httpx.Client, size: int, body: dict[str, Any], times: int, cpu_time: Callable[[], float]) -> dict[str, float]:
    """One search, so many times: milliseconds until its answer (median and the 95th of 100), and CPU of the service and its Redis."""
    offset = body.get("offset", 0)
    body = {"limit": 10, **body, "offset": max(0, size + offset) if offset < 0 else offset}
    waits, before = [], cpu_time()
    for _ in range(times):
        begun = time.perf_counter()
        answer = http.post("/threads/search", json=body)
        waits.append((time.perf_counter() - begun) * 1000)
        assert answer.status_code == 200, answer.text
        assert answer.json(), body
    used = (cpu_time() - before) * 1000 / times
    return {"median_ms": median(waits), "p95_ms": sorted(waits)[int(len(waits) * 0.95)], "cpu_ms": used}


async def measure(folder: Path, *, large: int = LARGE, times: int = 200, warm_up: int = 20) -> dict[str, Any]:
    """The table, printed, and its figures."""
    figures: dict[str, Any] = {"sizes": [SMALL, large], "searches": {}}
    server = Server("app.main", folder, RATE_LIMIT_RPM="0")
    try:
        await server.ready()
        storage = server.storage()
        here, there = cores()
        pin(server.process, here)
        pin(storage, here)
        pin(psutil.Process(), there)
        client = connect(EmbeddedRedis(folder / f"app.main-{server.port}").url)
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as http:
            filled = 0
            for size in (SMALL, large):
                begun = time.perf_counter()
                await fill(client, filled, size, seed=size)
                figures.setdefault("written_per_s", {})[str(size)] = round((size - filled) / (time.perf_counter() - begun))
                filled = size
                await settled(client)
                assert await asyncio.to_thread(lambda: http.post("/threads/count", json={}).json()) == size
                for name, body in SEARCHES.items():
                    await asyncio.to_thread(asked, http, size, body, warm_up, lambda: 0.0)
                    row = await asyncio.to_thread(asked, http, size, body, times, lambda: cpu(server.process, storage))
                    figures["searches"].setdefault(name, {})[str(size)] = row
                begun = time.perf_counter()
                counted = await asyncio.to_thread(lambda: http.post("/threads/count", json={"metadata": {"assistant_id": "one"}}).json())
                figures.setdefault("count", {})[str(size)] = {"counted": counted, "ms": (time.perf_counter() - begun) * 1000}
            memory: Any = await client.info("memory")
            figures["redis_mb"] = round(memory["used_memory"] / 2**20)
        await client.aclose()
    finally:
        pin(psutil.Process(), set(range(psutil.cpu_count() or 1)))
        server.close()
    print(f"### threads\n\n{table(figures)}\n", flush=True)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures as a table: a row per search."""
    small, large = map(str, figures["sizes"])
    lines = [
        f"| page of 10 | {small} threads, ms | CPU ms | {large} threads, ms | P95 ms | CPU ms | ms, ÷ | CPU, ÷ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in figures["searches"].items():
        few, many = rows[small], rows[large]
        ratios = [many[figure] / max(few[figure], 1e-9) for figure in ("median_ms", "cpu_ms")]
        figures_of_both = [few["median_ms"], few["cpu_ms"], many["median_ms"], many["p95_ms"], many["cpu_ms"]]
        lines.append(f"| {name} | " + " | ".join(f"{figure:.1f}" for figure in figures_of_both) + f" | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    counts = figures["count"]
    lines += ["", f"count of one assistant's threads: {counts[small]['ms']:.1f} ms for {counts[small]['counted']}, "
              f"{counts[large]['ms']:.1f} ms for {counts[large]['counted']}; Redis holds {figures['redis_mb']} MB"]  # fmt: skip
    return "\n".join(lines)
