"""Gateways and workers on one Redis, each a process of its own, and what must hold of the runs that they were given."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from redis import Redis
from redis.exceptions import RedisError

from app.storage.redis.connection import connect_blocking
from app.storage.redis.keys import ThreadKeys
from tests.support.engine_process import BRISK, PROCESSES, Kind, main
from tests.support.ports import free_port

START_LIMIT = 60.0
"""Seconds; the first process waits until everything is imported."""
TENANT = "default"


class Member:
    """A process of the fleet."""

    def __init__(self, kind: Kind, variables: dict[str, str], log: Path, *, step: float, hangs: bool) -> None:
        self.url = f"http://127.0.0.1:{variables['PORT']}"
        self.log = log
        self._kind = kind
        self._process = PROCESSES.Process(target=main, args=(kind, variables, str(log)), kwargs={"step": step, "hangs": hangs})

    def start(self) -> Member:
        """Return once it takes work."""
        self._process.start()
        wait_until(self._is_ready, START_LIMIT, lambda: f"{self._kind} is not ready:\n{self.said()}")
        return self

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def kill(self) -> None:
        """`kill -9`; return once the process is gone."""
        self._process.kill()
        self._process.join()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def exit_code(self, limit: float) -> int | None:
        """Its exit code; None: it still runs after `limit` seconds."""
        self._process.join(limit)
        return self._process.exitcode

    @property
    def has_ended(self) -> bool:
        return not self._process.is_alive()

    def is_ready(self) -> bool:
        """Whether the gateway says that it takes work."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def close(self) -> None:
        if self._process.pid is not None and self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _is_ready(self) -> bool:
        assert self._process.is_alive(), f"the {self._kind} has ended:\n{self.said()}"
        return self.is_ready() if self._kind == "gateway" else "worker_ready" in self.said()


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was accepted."""

    thread_id: str
    run_id: str
    text: str


class Fleet:
    """`Fleet(folder, url, LEASE_SECONDS="1")`; no process is left after `close`.

    Args:
        folder: Where the processes write their logs.
        redis_url: Address of the Redis that they share; None: the embedded one, in `folder`.
        variables: Settings of all processes.
    """

    def __init__(self, folder: Path, redis_url: str | None, **variables: str) -> None:
        self._folder = folder
        self._redis_url = redis_url
        given = {"PATH": os.environ["PATH"], "HOME": str(folder), "DATA_DIR": str(folder / "data"), "CONFORMANCE_GRAPH": "true"}
        self._variables = {**given, **({"REDIS_URL": redis_url} if redis_url else {}), **variables}
        self._members: list[Member] = []

    def gateway(self, *, step: float = 0.05, hangs: bool = False, **variables: str) -> Member:
        """A service with HTTP."""
        return self._member("gateway", {"EXECUTION": "workers", **variables}, step, hangs)

    def worker(self, *, step: float = 0.05, hangs: bool = False, **variables: str) -> Member:
        """A worker; `step` is how long each step of the brisk graph takes, seconds."""
        return self._member("worker", variables, step, hangs)

    def _member(self, kind: Kind, variables: dict[str, str], step: float, hangs: bool) -> Member:
        given = {**self._variables, "PORT": str(free_port()), **variables}
        member = Member(kind, given, self._folder / f"{kind}-{len(self._members)}.log", step=step, hangs=hangs)
        self._members.append(member)
        return member.start()

    def said(self) -> str:
        """The logs of all processes."""
        return "\n".join(member.said() for member in self._members)

    def close(self) -> None:
        """Make sure that nothing is left."""
        for member in self._members:
            member.close()


class Ledger:
    """What Redis says of runs, read past the service.

    Args:
        redis_url: Address of the Redis.
    """

    def __init__(self, redis_url: str) -> None:
        self.redis: Redis = connect_blocking(redis_url, timeout=10.0)

    def run(self, started: Started) -> dict[str, str]:
        """The record of a run, as it is stored."""
        found: Any = self.redis.hgetall(ThreadKeys(TENANT, started.thread_id).run(started.run_id))
        return {name.decode(): value.decode() for name, value in found.items()}

    def status(self, started: Started) -> str:
        return self.run(started).get("status", "lost")

    def attempt(self, started: Started) -> int:
        return int(self.run(started).get("attempt", 0))

    def events(self, started: Started) -> list[tuple[str, bytes]]:
        """Names and data of all events in the log of a run."""
        found: Any = self.redis.xrange(ThreadKeys(TENANT, started.thread_id).events(started.run_id))
        return [(fields[b"e"].decode(), fields[b"d"]) for _, fields in found]

    def everything(self, thread_id: str) -> dict[bytes, bytes | None]:
        """Every key of a thread, with what it holds."""
        keys: list[Any] = sorted(self.redis.scan_iter(match=ThreadKeys(TENANT, thread_id).thread().removesuffix("thread") + "*"))
        return {key: self.redis.dump(key) for key in keys}  # type: ignore[misc]

    def answers(self) -> bool:
        """Whether Redis is there."""
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def break_queue(self, started: Started) -> None:
        """Make the queue of the run's thread something else than a list."""
        key = ThreadKeys(TENANT, started.thread_id).queue()
        self.redis.delete(key)
        self.redis.set(key, "no list")

    def wait_for_end(self, runs: Sequence[Started], limit: float) -> None:
        """Return once all of these runs have ended."""
        left = list(runs)

        def all_ended() -> bool:
            left[:] = [run for run in left if self.status(run) in ("pending", "running")]
            return not left

        wait_until(all_ended, limit, lambda: f"{len(left)} runs have not ended, the first is {self.run(left[0])}")

    def check(self, started: Started, values: dict[str, Any]) -> None:
        """The run has ended well, once, with one terminal event; its text is there once, and answered once."""
        assert self.status(started) == "success", self.run(started)
        names = [name for name, _ in self.events(started)]
        terminal = [i for i, name in enumerate(names) if name in ("end", "error")]
        assert terminal == [len(names) - 1], f"{started} has terminal events at {terminal} of {len(names)}"
        said = [(message["type"], message["content"]) for message in values["messages"]]
        assert said == [("human", started.text), ("ai", started.text)], f"{started}: {said}"


def background(http: httpx.Client, text: str, graph: str = BRISK, **wishes: Any) -> Started:
    """Start a run on a thread of its own; returns once it has been accepted."""
    thread_id = http.post("/threads", json={}).raise_for_status().json()["thread_id"]
    body = {"assistant_id": graph, "input": {"messages": [{"role": "user", "content": text}]}, "stream_resumable": True, **wishes}
    run_id = http.post(f"/threads/{thread_id}/runs", json=body).raise_for_status().json()["run_id"]
    return Started(thread_id, run_id, text)


def values_of(http: httpx.Client, run: Started) -> dict[str, Any]:
    """The state of the run's thread."""
    values: dict[str, Any] = http.get(f"/threads/{run.thread_id}/state").raise_for_status().json()["values"]
    return values


def wait_until(is_so: Callable[[], bool], limit: float, complaint: Callable[[], str] = lambda: "it did not happen") -> float:
    """Return after how many seconds `is_so()`; fails with `complaint()` if that is not within `limit` seconds."""
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun < limit, f"after {limit:.0f} s: {complaint()}"
        time.sleep(0.01)
    return time.monotonic() - begun
