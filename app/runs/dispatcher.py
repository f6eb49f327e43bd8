"""Brings runs to executors: claims what waits, begins what is due, and looks after threads that nobody holds any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any
from uuid import uuid4

from app.runs.executor import Executor, is_batch
from app.runs.model import public_run
from app.runs.webhooks import webhook_body
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.redis.checkpoints import RedisSaver
from app.storage.redis.runs import Claim, RunRecord, RunRepository
from app.storage.redis.webhooks import Webhook, WebhookOutbox
from app.storage.redis.work import RunRef, ThreadRef, WorkQueue
from app.telemetry.logging import get_logger
from app.threads.service import ThreadService

CAPACITY = 1_000
"""Most runs that one process executes at once."""
BATCH_CAPACITY = CAPACITY // 2
"""Most batch runs among them; the others stay announced, so that there is always room for those that somebody waits for."""
BLOCK = 1.0
"""Longest wait for announced work, seconds."""
LOOK_EVERY = 1.0
"""How often threads are looked at whose lease may have ended, and delayed runs that may be due, seconds."""
SWEEP_LEASES = 6
"""How often all threads are searched for one that nobody watches, in leases."""
PAUSE_AFTER_FAILURE = 1.0
"""Wait after Redis did not answer, seconds."""


class Dispatcher:
    """One per process. With `executes` false it only announces work and leaves its execution to others.

    Args:
        runs: Run records.
        work: The queue over all processes.
        saver: Checkpoints, for those of rolled-back runs.
        states: The states of threads, for webhooks.
        outbox: Takes over the webhooks of ended runs.
        lease: How long a lease lasts without renewal, seconds.
        executes: Whether this process executes runs.
        on_settled: Told of a thread that was looked at and had nothing left to be done; must not wait.
    """

    def __init__(
        self,
        runs: RunRepository,
        work: WorkQueue,
        saver: RedisSaver,
        states: ThreadService,
        outbox: WebhookOutbox,
        *,
        lease: float,
        executes: bool,
        on_settled: Callable[[ThreadRef], None] = lambda thread: None,
    ) -> None:
        self._on_settled = on_settled
        self._runs = runs
        self._work = work
        self._saver = saver
        self._states = states
        self._outbox = outbox
        self._lease = lease
        self._sweep = SWEEP_LEASES * lease
        self.executes = executes
        self._executor: Executor | None = None
        self._consumer = uuid4().hex
        self._loops: list[asyncio.Task[None]] = []
        self._settling: set[asyncio.Task[None]] = set()
        self._is_open = True
        self._is_stopping = False
        self._announced = (0, 0)

    def takes_more(self, *, is_batch: bool = False) -> bool:
        """Whether this process would execute one more run."""
        if not (self.executes and self._is_open and self._executor is not None and len(self._executor) < CAPACITY):
            return False
        return not is_batch or self._executor.batches < BATCH_CAPACITY

    @property
    def executing(self) -> int:
        """How many runs this process executes."""
        return len(self._executor) if self._executor is not None else 0

    @property
    def announced(self) -> tuple[int, int]:
        """How many runs waited for a process to execute them, at most `LOOK_EVERY` seconds ago: batch runs are the second number."""
        return self._announced

    async def start(self, executor: Executor) -> None:
        """Begin to look for work."""
        self._executor = executor
        await self._work.prepare()
        loops: list[Callable[[], Awaitable[None]]] = [self._look]
        if self.executes:
            loops += [self._take, self._hear]
        self._loops = [asyncio.create_task(self._forever(loop), name=f"dispatcher:{loop.__name__}") for loop in loops]

    def close(self) -> None:
        """Take nothing new from now on; what is left on a thread is announced to others."""
        self._is_open = False

    async def stop(self) -> None:
        """End all loops."""
        self.close()
        if self._settling:
            await asyncio.wait(self._settling)
        # A flag besides the cancellation: redis-py can lose one that arrives together with a reply.
        self._is_stopping = True
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        try:
            await self._work.leave(self._consumer)
        except StorageError:
            get_logger().warning("consumer_not_removed")

    async def watch(self, thread: ThreadRef) -> None:
        """Have the thread looked at when its first lease would have ended; if that fails, the sweep finds it."""
        try:
            await self._work.watch(thread, time.time() + self._lease)
        except StorageError as exc:
            get_logger().warning("thread_not_watched", code=exc.code)

    def soon(self, thread: ThreadRef) -> None:
        """Do what is left to do on the thread, in the background."""
        self.background(self._settle_safely(thread))

    async def settle(self, thread: ThreadRef) -> float:
        """Do what is left to do on a thread; returns when to look again, in seconds from now, 0.0: never."""
        state = await self._runs.inspect(thread.tenant, thread.thread_id)
        for run_id in state.to_post:
            run = await self._runs.get(thread.tenant, thread.thread_id, run_id)
            if run is not None:
                await self._post(thread.tenant, run)
            await self._runs.posted(thread.tenant, thread.thread_id, [run_id])
        if state.lease > 0:
            return state.lease
        if state.to_purge:
            saver = self._saver.bind(tenant=thread.tenant)
            await saver.adelete_for_runs(state.to_purge, thread_id=thread.thread_id)
            await self._runs.purged(thread.tenant, thread.thread_id, state.to_purge)
        if state.head is None:
            if state.forget_after is not None:
                await self._runs.forget(thread.tenant, thread.thread_id, state.forget_after)
            return 0.0
        head = await self._runs.get(thread.tenant, thread.thread_id, state.head)
        if head is not None:
            await self.offer(RunRef(thread.tenant, thread.thread_id, state.head), is_batch=is_batch(head))
        return self._lease

    async def _post(self, tenant: str, run: RunRecord) -> None:
        values = await self._states.values_of_run(tenant, run.thread_id, run.graph_id, run.run_id)
        body = webhook_body(public_run(run), started_at=run.started_at, ended_at=run.updated_at, values=values, error=run.error)
        await self._outbox.put(Webhook(tenant, run.run_id, run.thread_id, run.webhook, body))

    async def offer(self, run: RunRef, *, is_batch: bool) -> None:
        """Execute the run here if there is room, else announce it."""
        if not self.takes_more(is_batch=is_batch):
            await self._work.announce(run, is_batch=is_batch)
            return
        claim = await self._runs.claim(run.tenant, run.thread_id, run.run_id)
        if isinstance(claim, Claim):
            await self._watch_and_submit(run, claim)
        elif claim[0] == "purge":
            self.soon(run.thread)

    async def _watch_and_submit(self, run: RunRef, claim: Claim) -> None:
        assert self._executor is not None
        self._executor.submit(run.tenant, claim)
        await self.watch(run.thread)

    async def _take(self) -> None:
        """Claim what others have announced."""
        if not self.takes_more():
            await asyncio.sleep(BLOCK)
            return
        with_batch = self.takes_more(is_batch=True)
        for run, may_wait in await self._work.take(self._consumer, 16, BLOCK, with_batch=with_batch):
            await self.offer(run, is_batch=may_wait)

    async def _hear(self) -> None:
        """Stop what was ended from outside."""
        assert self._executor is not None
        async for run_id in self._work.notices():
            if self._is_stopping:
                return
            if run_id is not None:
                self._executor.stop(run_id)

    async def _look(self) -> None:
        """Look after threads whose lease may have ended and runs that are due; now and then search for forgotten ones."""
        begun = time.monotonic()
        await self._work.find_unwatched(time.time(), time.time() + self._sweep)
        while time.monotonic() - begun < self._sweep:
            self._announced = await self._work.announced()
            for run in await self._work.due(time.time()):
                if not await self._succeeds(self._begin(run), run.thread):
                    await self._work.delay(run, time.time() + self._sweep)
            for thread in await self._work.to_look_at(time.time()):
                if not await self._succeeds(self._settle_watched(thread), thread):
                    await self._work.watch(thread, time.time() + self._sweep)
            await asyncio.sleep(LOOK_EVERY)

    async def _begin(self, run: RunRef) -> None:
        """A delayed run is due."""
        await self._runs.enqueue(run.tenant, run.thread_id, run.run_id)
        await self._work.undelay(run)
        await self._settle_watched(run.thread)

    async def _succeeds(self, work: Awaitable[None], thread: ThreadRef) -> bool:
        """Whether the thread could be looked after; one that cannot be is put off, so that it does not keep others waiting."""
        try:
            await work
        except StorageUnavailable:
            raise
        except Exception:
            get_logger().exception("thread_not_settled", thread_id=thread.thread_id)
            return False
        return True

    async def _settle_watched(self, thread: ThreadRef) -> None:
        now = time.time()
        again = await self.settle(thread)
        if again:
            await self._work.watch(thread, time.time() + again)
        else:
            await self._work.unwatch(thread, now)
            self._on_settled(thread)

    async def _settle_safely(self, thread: ThreadRef) -> None:
        try:
            await self._settle_watched(thread)
        except StorageError as exc:
            get_logger().warning("thread_not_settled", thread_id=thread.thread_id, code=exc.code)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` beside everything else; the dispatcher waits for it when it stops."""
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """The outermost frame of a loop: it goes on whatever happens to one round."""
        while not self._is_stopping:
            try:
                await loop()
                continue
            except StorageError as exc:
                get_logger().warning("dispatcher_without_storage", loop=loop.__name__, code=exc.code)
            except Exception:
                get_logger().exception("dispatcher_failed", loop=loop.__name__)
            await asyncio.sleep(PAUSE_AFTER_FAILURE)
            with suppress(StorageError):
                await self._work.prepare()  # a Redis that came back empty does not know our group
