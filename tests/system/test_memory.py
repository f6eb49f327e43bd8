"""What a process does so that its memory is looked through rarely."""

from __future__ import annotations

from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.redis_server import RedisServer, short_directory


def test_what_is_made_at_start_is_frozen(tmp_path: Path) -> None:
    """Before a gateway or a worker takes its first work."""
    with short_directory() as directory, RedisServer(directory) as redis:
        fleet = Fleet(tmp_path, redis.url)
        try:
            said = [fleet.gateway().said(), fleet.worker().said()]
        finally:
            fleet.close()

    assert [text.count('"event": "objects_frozen"') for text in said] == [1, 1]
