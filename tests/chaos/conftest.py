"""One Redis and one fleet per test; `CHAOS=full` runs the full counts, `SEED=…` repeats a random test."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, Ledger
from tests.support.redis_server import RedisServer, short_directory

IS_FULL = os.environ.get("CHAOS") == "full"
StartFleet = Callable[..., Fleet]
PATIENT = "first_token=30,between_tokens=30,total=60"
"""Limits of a role whose models are held back for as long as a test needs, on a machine however slow."""


@pytest.fixture
def slack() -> float:
    """By how much a promise about time may be missed: CI machines are shared, a full run is meant to have one of its own."""
    return 1.0 if IS_FULL else 3.0


@pytest.fixture
def count() -> Callable[[int, int], int]:
    """Chooses between the count of a full run and that of every run: `count(1_000, 50)`."""
    return lambda full, small: full if IS_FULL else small


@pytest.fixture
def chance() -> random.Random:
    """Randomness whose seed is printed."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
    print(f"SEED={seed}")  # noqa: T201  pytest shows it when the test fails
    return random.Random(seed)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with short_directory() as directory, RedisServer(directory) as server:
        yield server


@pytest.fixture
def ledger(redis: RedisServer) -> Iterator[Ledger]:
    ledger = Ledger(redis.url)
    yield ledger
    ledger.redis.close()


@pytest.fixture
def start_fleet(tmp_path: Path, redis: RedisServer) -> Iterator[StartFleet]:
    """Makes a fleet on the test's Redis: `start_fleet(LEASE_SECONDS="1")`."""
    fleets: list[Fleet] = []

    def start(**variables: str) -> Fleet:
        fleets.append(Fleet(tmp_path, redis.url, **variables))
        return fleets[-1]

    yield start
    for fleet in fleets:
        fleet.close()
