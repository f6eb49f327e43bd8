"""How we reach Redis: short time limits, no retry of commands, and one place where its errors get our names."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterError, ConnectionError, InvalidResponse, ResponseError, TimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from app.storage.errors import LeaseLost, StorageUnavailable, StorageUnsuitable

MINIMUM_VERSION = (6, 2)
LEASE_LOST = "LEASELOST"  # first word of the error that our scripts answer with when the fence does not hold

# First words of replies that speak of the server's state and not of our command.
_PASSING = frozenset({"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "UNBLOCKED"})


def connect(
    url: str,
    *,
    max_connections: int = 64,
    pool_timeout: float = 1.0,
    connect_timeout: float = 2.0,
    command_timeout: float = 2.0,
) -> Redis:
    """A client that answers in bytes and fails fast; nothing is connected yet.

    No command is ever sent twice: a lost reply does not tell whether a script ran. A pooled connection whose server
    went away in the meantime is noticed when it is taken from the pool and replaced before the command is sent. That is
    why maintenance notifications are off: with them redis-py 8.1 skips this check.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        max_connections: Most connections at once.
        pool_timeout: Longest wait for a free connection, seconds.
        connect_timeout: Longest time to connect, seconds.
        command_timeout: Longest silence of the server, seconds; a blocking command must block for less.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=pool_timeout,
        socket_connect_timeout=connect_timeout,
        socket_timeout=command_timeout,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        driver_info=None,
    )
    return Redis.from_pool(pool)


class _Guarded:
    """Stateless, so one object serves every call."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        match error:
            case ResponseError() if str(error).startswith(LEASE_LOST):
                raise LeaseLost(str(error).removeprefix(LEASE_LOST).strip()) from error
            case ConnectionError() | TimeoutError() | ClusterError() | InvalidResponse():
                raise StorageUnavailable(f"Redis: {error}") from error
            case ResponseError() if _is_passing(error):
                raise StorageUnavailable(f"Redis: {error}") from error


def _is_passing(error: ResponseError) -> bool:
    return (getattr(error, "status_code", None) or str(error).partition(" ")[0]) in _PASSING


_GUARDED = _Guarded()


def guarded() -> _Guarded:
    """`with guarded():` around anything that talks to Redis, awaits included, translates what Redis raises.

    Raises:
        StorageUnavailable: Redis is down, slow, loading, read-only or full, or no connection was free in time.
        LeaseLost: A script refused to write because its fence does not hold.
    """
    return _GUARDED


async def ping(client: Redis) -> None:
    """Return if Redis answers.

    Raises:
        StorageUnavailable: It does not.
    """
    with guarded():
        await client.ping()


async def check_server(client: Redis) -> None:
    """Return if the server can serve us; called once, at start.

    Raises:
        StorageUnavailable: It does not answer.
        StorageUnsuitable: It is older than 6.2.
    """
    with guarded():
        info: dict[str, Any] = await client.info("server")
    version = str(info.get("redis_version", "0"))  # Valkey gives the version of Redis that it is compatible with
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_VERSION:
        raise StorageUnsuitable(f"Redis {version} is too old: set REDIS_URL to a Redis 6.2 or newer, or to a Valkey")
