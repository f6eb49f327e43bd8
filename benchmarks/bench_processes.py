"""The processes of a benchmark: servers on one core, load and provider on another, and what each has used."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import redis

from app.storage.redis.embedded import EmbeddedRedis

ROOT = Path(__file__).parents[1]
START_LIMIT = 60.0
"""Seconds after which a server that does not listen is taken for broken."""
PEAK_EVERY = 0.02
"""Seconds between two looks at a server's memory."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on.

    It is not one that the system gives to outgoing connections (above 32,767 on Linux): until the server has started, which takes
    seconds, somebody else's connection could take it.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def cores() -> tuple[set[int], set[int]]:
    """The cores of the servers, and those of load and provider; the same ones on a machine that has only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, {others[0]} if others else {first}


def pin(process: psutil.Process, to: set[int]) -> None:
    """Keep a process on the cores `to`, with all its threads and those that they will start."""
    for thread in process.threads():
        os.sched_setaffinity(thread.id, to)


class Server:
    """One server process; it is told its port by `PORT` and by its only argument.

    Args:
        module: What Python runs.
        folder: Where it keeps its data and its log.
        variables: Its environment; nothing of this process's configuration is passed on.
    """

    def __init__(self, module: str, folder: Path, **variables: str) -> None:
        self.port = free_port()
        self._log = folder / f"{module}-{self.port}.log"
        self._data = folder / f"{module}-{self.port}"
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "DATA_DIR": str(self._data), "PORT": str(self.port), **variables}
        command = [sys.executable, "-m", module, str(self.port)]
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.process = psutil.Process(self._popen.pid)

    async def ready(self) -> Server:
        """This server, once it listens.

        Raises:
            RuntimeError: It does not.
        """
        end = time.monotonic() + START_LIMIT
        while self._popen.poll() is None and time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            await asyncio.sleep(0.05)
        raise RuntimeError(f"a server does not start:\n{self._log.read_text()}")

    def storage(self) -> psutil.Process:
        """The embedded Redis of this server, which is the service."""
        with redis.Redis.from_url(EmbeddedRedis(self._data).url) as client:
            return psutil.Process(client.info("server")["process_id"])

    def close(self) -> None:
        """End it."""
        self._popen.terminate()
        try:
            self._popen.wait(30)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def cpu(*processes: psutil.Process) -> float:
    """CPU seconds that the processes have used so far."""
    return sum((used.user + used.system for used in (process.cpu_times() for process in processes)), 0.0)


def resident(process: psutil.Process) -> int:
    """Its memory, bytes."""
    size: int = process.memory_info().rss
    return size


class PeakMemory:
    """The most memory that a process has while the block lasts: `bytes`."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.bytes = 0

    async def __aenter__(self) -> PeakMemory:
        self._watch = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watch.cancel()
        self.bytes = max(self.bytes, resident(self._process))

    async def _look(self) -> None:
        while True:
            self.bytes = max(self.bytes, resident(self._process))
            await asyncio.sleep(PEAK_EVERY)
