"""A Redis client whose commands travel together: those that are issued while some are under way make the next trip."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Connection, Redis
from redis.connection import PythonRespSerializer
from redis.exceptions import ConnectionError, InvalidResponse, RedisError, TimeoutError

TRIPS_AT_ONCE = 2
"""How many trips are under way at most: one is being answered while the next is being made."""
MOST_TOGETHER = 64
"""Most commands of one trip: whoever is first in it waits for none of them, but whoever is last waits for all."""
_APART = frozenset({"XREADGROUP", "XREAD", "BLPOP", "BRPOP", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "WAIT", "WAITAOF"})
"""Commands that may make the server keep their connection waiting."""
_BREAKS = (ConnectionError, TimeoutError, InvalidResponse, OSError)
"""After which a connection is of no use."""
_CUTOFF = 6_000
"""Bytes from which on an argument is not copied into the one before it; redis-py's own number."""


class _Command:
    """One command on its way.

    Args:
        name: The command's first word.
        options: What redis-py wants to know to read the reply.
        packed: The command as it travels.
        reply: What its caller waits for; done early if the caller has left.
    """

    __slots__ = ("name", "options", "packed", "reply")

    def __init__(self, name: str, options: dict[str, Any], packed: list[bytes], reply: asyncio.Future[Any]) -> None:
        self.name = name
        self.options = options
        self.packed = packed
        self.reply = reply

    def fail(self, error: BaseException) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class SharedTrips(Redis):
    """A `Redis` that needs fewer trips, connections and system calls the more is going on; nobody waits to make one fuller.

    Each command has its own reply and its own error. A caller who leaves takes a command along that has not gone yet; of one that
    has, the reply is dropped. If a connection breaks, the commands of that trip which are not answered fail with what broke it, and are not
    sent again. Pipelines, subscriptions and commands that block have connections of their own, as ever.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pack = PythonRespSerializer(_CUTOFF, self.connection_pool.get_encoder().encode).pack  # type: ignore[no-untyped-call]
        self._waiting: list[_Command] = []
        self._trips: set[asyncio.Task[None]] = set()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command with whatever else is to be sent, and wait for its reply.

        Raises:
            RedisError: As redis-py raises them.
        """
        name = args[0]
        if name in _APART:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        reply = asyncio.get_running_loop().create_future()
        self._waiting.append(_Command(name, options, self._pack(*args), reply))  # type: ignore[no-untyped-call]
        if len(self._trips) < TRIPS_AT_ONCE:
            self._trips.add(asyncio.create_task(self._travel(), name="redis trip"))
        return await reply

    async def _travel(self) -> None:
        """Make trips until nothing waits."""
        try:
            while commands := self._next():
                try:
                    connection = await self.connection_pool.get_connection()  # type: ignore[no-untyped-call]
                except (RedisError, OSError) as exc:
                    _fail(commands, exc)
                    continue
                try:
                    await self._trip(connection, commands)
                finally:
                    await self.connection_pool.release(connection)
        finally:
            # In the same moment in which nothing waits any more: what comes a moment later must find this trip gone.
            self._trips.discard(cast(asyncio.Task[None], asyncio.current_task()))

    def _next(self) -> list[_Command]:
        taken, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
        wanted = [command for command in taken if not command.reply.done()]
        return wanted or (self._next() if self._waiting else [])

    async def _trip(self, connection: Connection, commands: Sequence[_Command]) -> None:
        try:
            await connection.send_packed_command([piece for command in commands for piece in command.packed])
            for command in commands:
                await self._read(connection, command)
        except BaseException as exc:
            # Replies that are still to come belong to nobody: this connection is of no use any more.
            await connection.disconnect(nowait=True)
            _fail(commands, exc if isinstance(exc, Exception) else ConnectionError("the client was closed"))
            if isinstance(exc, TimeoutError):
                self._give_up(exc)
            if not isinstance(exc, _BREAKS):
                raise

    async def _read(self, connection: Connection, command: _Command) -> None:
        try:
            reply = await self.parse_response(connection, command.name, **command.options)
        except _BREAKS:
            raise
        except Exception as exc:  # the server's answer, or what redis-py made of it
            command.fail(exc)
        else:
            if not command.reply.done():
                command.reply.set_result(reply)

    def _give_up(self, error: TimeoutError) -> None:
        """A server that is silent is so to those who wait behind, too; they have waited as long as anybody may."""
        waiting, self._waiting = self._waiting, []
        _fail(waiting, error)


def _fail(commands: Sequence[_Command], error: Exception) -> None:
    for command in commands:
        command.fail(error)
