"""Looks after threads whose time may be over, and after the index of threads: one of every process, each thing done by one of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from app.storage.errors import StorageError, StorageUnavailable
from app.storage.redis.thread_index import Indexed, ThreadIndex
from app.storage.redis.work import ThreadRef
from app.telemetry.logging import get_logger
from app.threads.indexer import ThreadIndexer
from app.threads.service import ThreadService

LOOK_EVERY = 1.0
"""How often threads are looked at whose time may be over, seconds."""
PUT_OFF = 60.0
"""When a thread is looked at again that could not be thinned out, or that another process has taken and not looked after, seconds."""
SWEEP_EVERY = 3600.0
"""How often all threads are compared with the index, seconds."""


class ThreadReaper:
    """Makes good what the index lacks, takes from it what is gone, and thins out threads when that is due (ADR-0027).

    Args:
        index: The index, and when which thread is to be looked at.
        indexer: Writes the index.
        states: Thins out threads.
        on_left: Told of a thread on which a run was accepted while it was thinned out.
        sweep_every: How often all threads are compared with the index, seconds.
    """

    def __init__(
        self,
        index: ThreadIndex,
        indexer: ThreadIndexer,
        states: ThreadService,
        on_left: Callable[[ThreadRef], None],
        *,
        sweep_every: float = SWEEP_EVERY,
    ) -> None:
        self._index = index
        self._indexer = indexer
        self._states = states
        self._on_left = on_left
        self._sweep_every = sweep_every

    async def run(self) -> None:
        """Look, and now and then sweep, until cancelled."""
        while True:
            try:
                if await self._index.begin_sweep(self._sweep_every):
                    get_logger().info("threads_swept", repaired=await self.sweep())
                await self.look()
            except StorageError as exc:
                get_logger().warning("reaper_without_storage", code=exc.code)
            except Exception:
                get_logger().exception("reaper_failed")
            await asyncio.sleep(LOOK_EVERY)

    async def sweep(self) -> int:
        """Write to the index what it does not know, or not the latest of; returns how many threads that were.

        Raises:
            StorageUnavailable: Redis cannot be asked.
        """
        repaired = 0
        async for threads in self._index.differing():
            await self._indexer.write(threads)
            repaired += len(threads)
            await asyncio.sleep(0)
        return repaired

    async def look(self) -> None:
        """Look after the threads whose time may be over.

        Raises:
            StorageUnavailable: Redis cannot be asked.
        """
        until = time.time() + PUT_OFF
        for thread in await self._index.take_lapsed(time.time(), until):
            try:
                again = await self._look_after(thread)
            except StorageUnavailable:
                raise
            except Exception:  # it is looked at again; the others must not wait for it
                get_logger().exception("thread_not_looked_after", thread_id=thread.thread_id)
            else:
                await self._index.settle_lapsed(thread, until, again)

    async def _look_after(self, thread: ThreadRef) -> float | None:
        """Do what is due; returns when to look again, seconds of Unix time; None: never."""
        entry = await self._index.read(thread.tenant, thread.thread_id)
        if entry is None or entry.thread.is_passing:
            await self._indexer.note(thread.tenant, [thread.thread_id])
            return None
        if entry.thins_in is None or entry.thins_in > 0.0:
            return time.time() + max(0.0, entry.due_in) + LOOK_EVERY
        if not await self._thin_out(thread, entry):
            return time.time() + PUT_OFF
        return time.time() + entry.left + LOOK_EVERY

    async def _thin_out(self, thread: ThreadRef, entry: Indexed) -> bool:
        if entry.is_held:
            return False
        is_done, is_left = await self._states.prune(thread.tenant, thread.thread_id, "keep_latest")
        if is_left:
            self._on_left(thread)
        return is_done
