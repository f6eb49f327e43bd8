"""How we reach Redis: short time limits, no retry of commands, and one place where its errors get our names."""

from __future__ import annotations

import asyncio
import builtins
import math
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from redis import Redis as BlockingRedis
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterError, ConnectionError, InvalidResponse, ResponseError, TimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry as BlockingRetry

from app.storage.errors import LeaseLost, StorageUnavailable, StorageUnsuitable
from app.storage.redis.shared_trips import SharedTrips

MINIMUM_VERSION = (6, 2)
LEASE_LOST = "LEASELOST"  # first word of the error that our scripts answer with when the fence does not hold

# First words of replies that speak of the server's state and not of our command.
_PASSING = frozenset({"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "UNBLOCKED"})


def connect(
    url: str,
    *,
    max_connections: int = 256,
    pool_timeout: float = 5.0,
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
    pool.connection_class = _CANCELLABLE[pool.connection_class]
    return SharedTrips.from_pool(pool)


LAST_LOOK = 0.1
"""Seconds after a time limit in which what came while a node blocked the event loop is still taken."""


class _Patience:
    """A time limit like `asyncio.timeout`, but with a last look: when a blocked event loop goes on, both the reply and the end
    of its time are there, and the reply is what counts.
    """

    __slots__ = ("_limit", "_over", "_scope")

    def __init__(self, limit: float) -> None:
        self._limit = limit

    async def __aenter__(self) -> None:
        self._scope = asyncio.timeout(None)
        await self._scope.__aenter__()
        self._over = asyncio.get_running_loop().call_later(self._limit, self._look)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.cancel()
        await self._scope.__aexit__(kind, error, trace)

    def _look(self) -> None:
        self._scope.reschedule(asyncio.get_running_loop().time() + LAST_LOOK)


class _Cancellable:
    """Connects, sends and reads within time limits of ours.

    redis-py 8.1 sends with `asyncio.wait_for`, which makes a task of every command and on Python 3.11 can lose a cancellation;
    then a run that was cancelled, or is past its deadline, goes on.
    """

    socket_timeout: float | None
    socket_connect_timeout: float | None

    async def _connect(self) -> None:
        limit, self.socket_connect_timeout = self.socket_connect_timeout, None
        try:
            async with _Patience(limit or math.inf):
                await super()._connect()  # type: ignore[misc]
        finally:
            self.socket_connect_timeout = limit

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """See redis-py."""
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            async with _Patience(limit or math.inf):
                await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except builtins.TimeoutError:
            raise TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit

    async def read_response(self, disable_decoding: bool = False, timeout: float | None = None, **how: Any) -> Any:
        """See redis-py."""
        if timeout is not None:
            return await super().read_response(disable_decoding, timeout, **how)  # type: ignore[misc]
        try:
            async with _Patience(self.socket_timeout or math.inf):
                return await super().read_response(disable_decoding, math.inf, **how)  # type: ignore[misc]
        except builtins.TimeoutError:
            raise TimeoutError("Timeout reading from socket") from None


class _CancellableConnection(_Cancellable, Connection): ...


class _CancellableSSLConnection(_Cancellable, SSLConnection): ...


class _CancellableUnixConnection(_Cancellable, UnixDomainSocketConnection): ...


_CANCELLABLE: dict[type[Any], type[Any]] = {
    Connection: _CancellableConnection,
    SSLConnection: _CancellableSSLConnection,
    UnixDomainSocketConnection: _CancellableUnixConnection,
}


def connect_blocking(url: str, *, timeout: float = 2.0) -> BlockingRedis:
    """A client for a thread of its own; it reconnects by itself and raises redis-py's own errors.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout: Longest silence of the server, seconds.
    """
    return BlockingRedis.from_url(
        url,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        retry=BlockingRetry(NoBackoff(), 1),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        driver_info=None,
    )


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
