"""A real Redis server for the integration tests: on a unix socket, without a port, nothing on disk but the socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from app.storage.errors import StorageUnsuitable
from app.storage.redis.embedded import find_server


class RedisServer:
    """A server that a test may stop, kill and start again.

    Args:
        directory: Short enough for a unix socket.
        port: Also listen on this port of 127.0.0.1; 0: do not.
        keeps: Whether it comes back with what it held; otherwise it comes back empty.
    """

    def __init__(self, directory: Path, port: int = 0, *, keeps: bool = False) -> None:
        self._keeps = ["--appendonly", "yes"] if keeps else []
        self._socket = directory / "redis.sock"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}" if self._port else f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return once the server answers."""
        binary = find_binary()
        command = [str(binary), "--port", str(self._port), "--bind", "127.0.0.1", "--unixsocket", str(self._socket)]
        self._process = subprocess.Popen(
            [*command, *self._keeps, "--save", "", "--dir", str(self._socket.parent)], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < give_up, "redis-server did not start"
            time.sleep(0.005)

    def kill(self) -> None:
        """`kill -9`; return once the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self._socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()


def find_binary() -> Path:
    """The server's program; the test is skipped where there is none, but not in CI."""
    try:
        return find_server()
    except StorageUnsuitable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def short_directory() -> contextlib.AbstractContextManager[Path]:
    """A directory whose path leaves room for a socket's name, removed at the end."""

    @contextlib.contextmanager
    def made():
        path = Path("/tmp") / f"cz-{os.getpid()}-{os.urandom(4).hex()}"
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    return made()
