from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet, Member

KEY = "key-of-acme"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """A gateway that wants `KEY`: the supervisor, and graphs that are slow, fail, ask and stream on demand."""
    fleet = Fleet(tmp_path_factory.mktemp("clients"), None, EXECUTION="local", API_KEYS=f"{KEY}:acme", LEASE_SECONDS="2")
    try:
        yield fleet.gateway(EXECUTION="local", hangs=True)
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def key() -> str:
    """The key that the gateway wants."""
    return KEY
