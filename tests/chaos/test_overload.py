"""More is asked than the provider can answer: what is taken is answered as quickly as ever, and what is refused is told so at once.

Load and provider are those of `benchmarks.bench_overload`: 8 calls at once, 0.25 s each, two calls per run, in an open loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import httpx
import pytest

from benchmarks.bench_client import Sample
from benchmarks.bench_overload import BODY, CAPACITY, load, quantile, scene
from tests.chaos.conftest import IS_FULL

P99_RATIO = 1.5
"""What the accepted runs' P99 may be at three times the capacity, as a share of that at half of it."""
GOODPUT = 0.8
"""What must be answered of what the provider can."""
LIVE_LIMIT = 1.0
"""Longest wait for /health/live, seconds."""


@pytest.mark.alone("the capacity is the provider's, not the machine's")
def test_at_three_times_the_capacity_what_is_taken_is_answered_as_quickly_as_at_half_of_it(
    tmp_path: Path, chance: Random, slack: float, count: Callable[[int, int], int]
) -> None:
    """P99 of the accepted, goodput, and what the refused are told; every run that was taken ends with an answer."""
    seconds, warm_up = count(30, 8), count(30, 15)

    async def play() -> None:
        with scene(tmp_path) as (service, provider):
            await provider.ready()
            await service.ready()
            half = await load(service.port, CAPACITY / 2, seconds, chance)
            await load(service.port, CAPACITY * 3, warm_up, chance)
            refusals = asyncio.create_task(asyncio.to_thread(refusals_of, service.port, seconds))
            triple = await load(service.port, CAPACITY * 3, seconds, chance)
            told = await refusals

        ratio, goodput = triple.quantile(0.99) / half.quantile(0.99), triple.goodput / CAPACITY
        print(  # noqa: T201  pytest shows it when the test fails, and make chaos always
            f"P99 {half.quantile(0.99):.2f} s → {triple.quantile(0.99):.2f} s ({ratio:.2f} ×), goodput {goodput:.0%}, "
            f"{len(triple.refused)} refused in {quantile(triple.refused, 0.5) * 1000:.0f} ms"
        )
        assert not half.faults
        assert not triple.faults  # no answer was lost, none failed after it had been accepted
        assert ratio <= P99_RATIO * slack
        assert goodput >= GOODPUT / slack
        assert len(triple.refused) > len(triple.answered) / 2
        assert quantile(triple.refused, 0.5) < 0.1 * slack
        assert told
        for answer in told:
            assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
            assert 1 <= int(answer.headers["retry-after"]) <= 60

    asyncio.run(play())


def refusals_of(port: int, seconds: float) -> list[httpx.Response]:
    """What a client is told that is refused now and then."""
    told = []
    end = time.monotonic() + seconds
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        while time.monotonic() < end:
            answer = client.post("/runs/wait", json=BODY)
            if answer.status_code != 200:
                told.append(answer)
    return told


@pytest.mark.alone("the flood takes a whole core")
def test_ten_times_the_capacity_does_not_kill_the_service(
    tmp_path: Path, chance: Random, slack: float, count: Callable[[int, int], int]
) -> None:
    """It stays alive, goes on answering, and is as before when the flood is over."""
    seconds = count(20, 6)
    waits: list[float] = []
    answered: list[Sample] = []

    async def look(port: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while True:
                begun = time.monotonic()
                assert (await client.get("/health/live")).status_code == 200
                waits.append(time.monotonic() - begun)
                await asyncio.sleep(0.2)

    async def play() -> None:
        with scene(tmp_path) as (service, provider):
            await provider.ready()
            await service.ready()
            before = await load(service.port, CAPACITY / 4, count(10, 5), chance)
            await load(service.port, CAPACITY * 3, count(20, 8), chance)
            looking = asyncio.create_task(look(service.port))
            flood = await load(service.port, CAPACITY * 10, seconds, chance, on_sample=answered.append)
            looking.cancel()
            await asyncio.wait([looking])
            after = await load(service.port, CAPACITY / 4, count(10, 5), chance)

        print(  # noqa: T201
            f"live ≤ {max(waits):.2f} s, goodput {flood.goodput / CAPACITY:.0%}, {len(flood.refused)} refused; "
            f"P50 {before.quantile(0.5):.2f} s → {after.quantile(0.5):.2f} s"
        )
        assert looking.cancelled()
        assert max(waits) <= LIVE_LIMIT * slack
        assert not flood.faults
        assert flood.goodput >= CAPACITY * (GOODPUT if IS_FULL else GOODPUT / 4)
        assert not after.faults
        assert not after.refused
        assert after.quantile(0.5) <= before.quantile(0.5) * 1.5 * slack

    asyncio.run(play())
