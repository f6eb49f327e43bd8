"""Keeps the leases of this process alive from a thread of its own, which no node that blocks the event loop can starve."""

from __future__ import annotations

import threading
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from app.storage.redis.checkpoints import Fence
from app.storage.redis.run_scripts import RENEW
from app.telemetry.logging import get_logger

RETRY = 0.5
"""Seconds to the next try after Redis did not answer."""


class LeaseKeeper:
    """Renews every lease that is held, four times in its life.

    Args:
        client: A client of its own, not the event loop's.
        lease: How long a lease lasts without renewal, seconds.
        on_lost: Told the id of a run whose lease is somebody else's; called in the keeper's thread.
    """

    def __init__(self, client: Redis, *, lease: float, on_lost: Callable[[str], None]) -> None:
        self._client = client
        self._lease = lease
        self._on_lost = on_lost
        self._held: dict[str, Fence] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._renew = client.register_script(RENEW)
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew nothing more; returns once the thread has ended."""
        self._stopping.set()
        self._thread.join(timeout=5.0)
        self._client.close()

    def hold(self, run_id: str, fence: Fence) -> None:
        """Renew this lease from now on."""
        with self._lock:
            self._held[run_id] = fence

    def drop(self, run_id: str) -> None:
        """Renew it no longer."""
        with self._lock:
            self._held.pop(run_id, None)

    def _run(self) -> None:
        wait = self._lease / 4
        while not self._stopping.wait(wait):
            wait = self._lease / 4
            try:
                self._renew_all()
            except RedisError as exc:
                get_logger().warning("leases_not_renewed", error=type(exc).__name__)
                wait = min(RETRY, wait)
            except Exception:  # without this thread every run of the process would be taken from it
                get_logger().exception("leases_not_renewed")

    def _renew_all(self) -> None:
        with self._lock:
            held = list(self._held.items())
        for run_id, fence in held:
            if not self._renew(keys=[fence.key], args=[fence.token, int(self._lease * 1000)]):
                self.drop(run_id)
                self._on_lost(run_id)
