"""The service as its users have it: a process of its own, spoken to over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from app.storage.redis.embedded import EmbeddedRedis
from tests.support.engine_process import PROCESSES, be_the_service
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
START_LIMIT = 60.0
"""Seconds after which a service that does not answer is taken for broken; a loaded machine needs several to import."""


class _Fork:
    """The service as a fork of a process that has imported everything, with as much of `subprocess.Popen` as is needed here."""

    def __init__(self, variables: dict[str, str], log: Path) -> None:
        self._process = PROCESSES.Process(target=be_the_service, args=(variables, str(log)))
        self._process.start()
        self.terminate, self.kill = self._process.terminate, self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a fork of the service", timeout or 0.0)
        return self._process.exitcode


class Service:
    """One service process, or several one after the other on the same data and port.

    Args:
        folder: Where it keeps its data and its log.
        as_command: Start it as `make run` does, which takes seconds of CPU time; otherwise it is a fork of a process that has
            imported the service already, and differs in nothing else.
        variables: Its environment; nothing of this process's configuration is passed on.
    """

    def __init__(self, folder: Path, *, as_command: bool = False, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "service.log"
        self.data = folder / "data"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DATA_DIR": str(self.data),
            "PORT": str(self.port),
            **variables,
        }
        self._as_command = as_command
        self._process: subprocess.Popen[bytes] | _Fork | None = None

    @property
    def process(self) -> subprocess.Popen[bytes] | _Fork:
        """The running process."""
        assert self._process is not None, "the service has not been started"
        return self._process

    @property
    def redis_url(self) -> str:
        """Address of its embedded Redis."""
        return EmbeddedRedis(self.data).url

    def launch(self) -> None:
        """Start the process and do not wait for it."""
        if not self._as_command:
            self._process = _Fork(self._environment, self.log)
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "app.main"], cwd=ROOT, env=self._environment, stdout=log, stderr=log)

    def start(self) -> Service:
        """Start the process and return once it is ready."""
        self.launch()
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            if (code := self.process.poll()) is not None:
                raise AssertionError(f"the service ended with {code}:\n{self.log_text()}")
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"the service is not ready after {START_LIMIT:.0f} s:\n{self.log_text()}")

    def kill(self) -> None:
        """End the process as a crash does."""
        self.process.kill()
        self.process.wait()

    def stop(self, limit: float = 60.0) -> int:
        """Ask the process to end and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(limit)

    def close(self) -> None:
        """Make sure that nothing is left."""
        if self._process is not None and self._process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()

    def log_text(self) -> str:
        """What the process has said so far."""
        return self.log.read_text() if self.log.exists() else ""
