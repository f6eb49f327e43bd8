"""The service as its users have it: a process of its own, spoken to over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from app.storage.redis.embedded import EmbeddedRedis

ROOT = Path(__file__).parents[2]
START_LIMIT = 60.0
"""Seconds after which a service that does not answer is taken for broken; a loaded machine needs several to import."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Service:
    """One service process, or several one after the other on the same data and port.

    Args:
        folder: Where it keeps its data and its log.
        variables: Its environment; nothing of this process's configuration is passed on.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
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
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "the service has not been started"
        return self._process

    @property
    def redis_url(self) -> str:
        """Address of its embedded Redis."""
        return EmbeddedRedis(self.data).url

    def launch(self) -> None:
        """Start the process and do not wait for it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "app.main"], cwd=ROOT, env=self._environment, stdout=log, stderr=log)

    def start(self) -> Service:
        """Start the process and return once it is ready."""
        self.launch()
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log_text()}")
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"the service is not ready after {START_LIMIT:.0f} s:\n{self.log_text()}")

    def kill(self) -> None:
        """End the process as a crash does."""
        self.process.kill()
        self.process.wait()

    def stop(self, limit: float = 60.0) -> int:
        """Ask the process to end and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
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
