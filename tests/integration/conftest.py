"""One real Redis for the whole session, empty at the start of every test."""

from __future__ import annotations

import pytest

from app.storage.redis.connection import connect
from tests.support.redis_server import RedisServer, short_directory


@pytest.fixture(scope="session")
def shared_redis():
    with short_directory() as directory, RedisServer(directory) as server:
        yield server


@pytest.fixture
async def redis_client(shared_redis):
    client = connect(shared_redis.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def redis_url(shared_redis, redis_client):
    """The address of the shared server; it has been emptied."""
    return shared_redis.url


@pytest.fixture
def own_redis():
    """A server of the test's own, to be killed and started again."""
    with short_directory() as directory, RedisServer(directory) as server:
        yield server
