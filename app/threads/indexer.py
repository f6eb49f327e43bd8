"""Keeps the index of threads up to date, off the way of the runs that change them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

from app.storage.errors import StorageError
from app.storage.redis.thread_index import Indexed, ThreadIndex
from app.storage.redis.work import ThreadRef
from app.telemetry.logging import get_logger

PAUSE = 0.1
"""How long changes are gathered before they are written, seconds: a thread that changes twice meanwhile is read once."""
PAUSE_AFTER_FAILURE = 1.0
"""Wait after Redis did not answer, seconds."""
AT_ONCE = 16
"""Most threads that are read at the same moment."""
MOST_PENDING = 20_000
"""Most threads that wait to be written while Redis is away; the sweep makes good what comes on top."""


class ThreadIndexer:
    """Told of every thread that has changed; reads it and writes what it finds to the index. For one event loop.

    What is written comes from the thread itself and carries its revision, so it may be written twice, late, or by several processes.
    """

    def __init__(self, index: ThreadIndex) -> None:
        self._index = index
        self._pending: dict[ThreadRef, None] = {}
        self._has_pending = asyncio.Event()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._catching_up = asyncio.Lock()

    def touch(self, tenant: str, thread_id: str) -> None:
        """The thread has changed, or is gone; returns at once, and the index knows it a moment later."""
        if len(self._pending) < MOST_PENDING:
            self._pending[ThreadRef(tenant, thread_id)] = None
            self._has_pending.set()

    async def note(self, tenant: str, thread_ids: Iterable[str]) -> None:
        """The same, but returns once the index knows it; if Redis cannot be asked, later."""
        threads = [ThreadRef(tenant, thread_id) for thread_id in thread_ids]
        try:
            await self.write(threads)
        except StorageError as exc:
            get_logger().warning("threads_not_indexed", code=exc.code, threads=len(threads))
            for thread in threads:
                self.touch(tenant, thread.thread_id)

    async def catch_up(self) -> None:
        """Write what this process has been told of so far, so that whoever searches here finds what was done here.

        Raises:
            StorageUnavailable: Redis cannot be asked.
        """
        async with self._catching_up:  # what another caller is writing now is not known to the index either
            pending, self._pending = self._pending, {}
            self._has_pending.clear()
            try:
                await self.write(list(pending))
            except BaseException:
                for thread in pending:
                    self.touch(thread.tenant, thread.thread_id)
                raise

    async def run(self) -> None:
        """Write what has changed, until cancelled; then once more."""
        try:
            while True:
                await self._has_pending.wait()
                await asyncio.sleep(PAUSE)
                try:
                    await self.catch_up()
                except StorageError as exc:
                    get_logger().warning("threads_not_indexed", code=exc.code, threads=len(self._pending))
                    await asyncio.sleep(PAUSE_AFTER_FAILURE)
                except Exception:  # without this task nothing would be found any more
                    get_logger().exception("threads_not_indexed", threads=len(self._pending))
                    await asyncio.sleep(PAUSE_AFTER_FAILURE)
        finally:
            with suppress(StorageError):
                await self.catch_up()

    async def write(self, threads: list[ThreadRef]) -> None:
        """Read these threads and write them to the index, or forget them where they are gone.

        Raises:
            StorageUnavailable: Redis cannot be asked.
        """
        by_tenant: dict[str, list[str]] = {}
        for thread in threads:
            by_tenant.setdefault(thread.tenant, []).append(thread.thread_id)
        for tenant, ids in by_tenant.items():
            found = await self._read(tenant, ids)
            shown = [entry for entry in found.values() if entry is not None and not entry.thread.is_passing]
            await self._index.write(tenant, shown, time.time())
            if gone := [thread_id for thread_id, entry in found.items() if _is_gone(entry)]:
                await self._drop(tenant, gone)

    async def _drop(self, tenant: str, thread_ids: list[str]) -> None:
        """Forget threads that are still gone when looked at after the index: one that was made anew meanwhile is not lost."""
        known = dict(zip(thread_ids, await self._index.known(tenant, thread_ids), strict=True))
        found = await self._read(tenant, [thread_id for thread_id in thread_ids if known[thread_id] is not None])
        await self._index.drop(tenant, {thread_id: known[thread_id] or b"" for thread_id, entry in found.items() if _is_gone(entry)})

    async def _read(self, tenant: str, thread_ids: list[str]) -> dict[str, Indexed | None]:
        async def read(thread_id: str) -> Indexed | None:
            async with self._turns:
                return await self._index.read(tenant, thread_id)

        entries = await asyncio.gather(*map(read, thread_ids))
        return dict(zip(thread_ids, entries, strict=True))


def _is_gone(entry: Indexed | None) -> bool:
    return entry is None or entry.thread.is_passing
