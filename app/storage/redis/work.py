"""What crosses threads: who executes what next, what is to begin later, which threads need a look, who must let go.

All of it can be rebuilt from the threads, so nothing here is the truth: it is written second, may be written twice, and
the reaper mends what is missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app.storage.redis.connection import guarded
from app.storage.redis.keys import BATCH_WORK, DELAYED, EVERY_QUEUE, NOTICES, OPEN, WORK, ThreadKeys, decode

_GROUP = "executors"
_MAX_WORK = 100_000
_PAGE = 200
_UNWATCH = """
local at = redis.call('ZSCORE', KEYS[1], ARGV[1])
if at and tonumber(at) <= tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
"""


@dataclass(frozen=True, slots=True)
class ThreadRef:
    """A thread of a tenant."""

    tenant: str
    thread_id: str


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run of a thread of a tenant."""

    tenant: str
    thread_id: str
    run_id: str

    @property
    def thread(self) -> ThreadRef:
        """The run's thread."""
        return ThreadRef(self.tenant, self.thread_id)


class WorkQueue:
    """The queue of all tenants, over all processes; every method raises `StorageUnavailable` if Redis cannot be asked."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._unwatch = client.register_script(_UNWATCH)

    async def prepare(self) -> None:
        """Make what readers of the queue need; doing it twice is harmless."""
        with guarded():
            for stream in (WORK, BATCH_WORK):
                try:
                    await self._client.xgroup_create(stream, _GROUP, id="0", mkstream=True)
                except ResponseError as exc:
                    if "BUSYGROUP" not in str(exc):
                        raise

    async def announce(self, run: RunRef, *, is_batch: bool = False) -> None:
        """The run waits for somebody who executes it; a batch run behind all others."""
        with guarded():
            fields: dict[Any, Any] = {"r": _pack(run.tenant, run.thread_id, run.run_id)}
            await self._client.xadd(BATCH_WORK if is_batch else WORK, fields, maxlen=_MAX_WORK, approximate=True)

    async def announced(self) -> tuple[int, int]:
        """How many runs wait for somebody who executes them: those that may not wait long, and batch runs."""
        with guarded():
            return await self._client.xlen(WORK), await self._client.xlen(BATCH_WORK)

    async def take(self, consumer: str, count: int, block: float, *, with_batch: bool = True) -> list[tuple[RunRef, bool]]:
        """Runs that were announced, each to one taker, and whether it is a batch run; none after `block` seconds without any.

        What is taken is gone from the queue. A taker that dies before it claims a run leaves it to the reaper.

        Args:
            consumer: Who takes.
            count: Most runs; as many batch runs may come on top.
            block: Longest wait, seconds, > 0.
            with_batch: Whether batch runs are wanted too.
        """
        streams = {WORK: ">", BATCH_WORK: ">"} if with_batch else {WORK: ">"}
        taken: list[tuple[RunRef, bool]] = []
        with guarded():
            wait = max(1, int(block * 1000))  # 0 would mean: for ever
            found: Any = await self._client.xreadgroup(_GROUP, consumer, cast(Any, streams), count=count, block=wait, noack=True)
            for stream in streams:
                entries = _entries(found, stream)
                if entries:
                    await self._client.xdel(stream, *(entry_id for entry_id, _ in entries))
                taken += [(RunRef(*orjson.loads(fields[b"r"])), stream == BATCH_WORK) for _, fields in entries]
        return taken

    async def leave(self, consumer: str) -> None:
        """The consumer takes nothing any more."""
        with guarded():
            for stream in (WORK, BATCH_WORK):
                await self._client.xgroup_delconsumer(stream, _GROUP, consumer)

    async def delay(self, run: RunRef, until: float) -> None:
        """The run begins at `until`, seconds of Unix time."""
        with guarded():
            await self._client.zadd(DELAYED, {_pack(run.tenant, run.thread_id, run.run_id): until})

    async def due(self, now: float) -> list[RunRef]:
        """Delayed runs whose time has come."""
        with guarded():
            found: Any = await self._client.zrange(DELAYED, "-inf", now, byscore=True, offset=0, num=_PAGE)
        return [RunRef(*orjson.loads(member)) for member in found]

    async def undelay(self, run: RunRef) -> None:
        """The run is in its thread's queue, or has ended."""
        with guarded():
            await self._client.zrem(DELAYED, _pack(run.tenant, run.thread_id, run.run_id))

    async def watch(self, thread: ThreadRef, at: float) -> None:
        """Somebody should look at the thread at `at`, seconds of Unix time."""
        with guarded():
            await self._client.zadd(OPEN, {_pack(thread.tenant, thread.thread_id): at})

    async def unwatch(self, thread: ThreadRef, now: float) -> None:
        """Nothing is left to do on the thread, unless somebody has asked for a look after `now`."""
        with guarded():
            await self._unwatch(keys=[OPEN], args=[_pack(thread.tenant, thread.thread_id), now])

    async def open_threads(self, tenant: str) -> list[ThreadRef]:
        """Threads of a tenant that may have runs which have not ended."""
        with guarded():
            members = [ThreadRef(*orjson.loads(member)) async for member, _ in self._client.zscan_iter(OPEN)]
        return [thread for thread in members if thread.tenant == tenant]

    async def to_look_at(self, now: float) -> list[ThreadRef]:
        """Threads that somebody should look at by now."""
        with guarded():
            found: Any = await self._client.zrange(OPEN, "-inf", now, byscore=True, offset=0, num=_PAGE)
        return [ThreadRef(*orjson.loads(member)) for member in found]

    async def find_unwatched(self, at: float, latest: float) -> int:
        """Have every thread with a queue looked at, one that nobody was going to look at by `at`, the others by `latest`.

        No look is due later than `latest` unless the clock was set back since it was asked for.

        Returns:
            How many nobody was going to look at.
        """
        added = 0
        with guarded():
            async for key in self._client.scan_iter(match=EVERY_QUEUE, count=1000):
                name = key.decode()
                member = _pack(decode(name.partition(":")[0]), ThreadKeys.thread_id_of(name))
                pipeline = self._client.pipeline(transaction=False)
                pipeline.zadd(OPEN, {member: at}, nx=True)
                pipeline.zadd(OPEN, {member: latest}, xx=True, lt=True)
                added += int((await pipeline.execute())[0] or 0)
        return added

    async def notify(self, run_ids: Sequence[str]) -> None:
        """These runs were ended from outside; whoever executes them should stop now instead of at its next write."""
        with guarded():
            for run_id in run_ids:
                await self._client.publish(NOTICES, run_id)

    async def notices(self) -> AsyncIterator[str | None]:
        """Ids of runs that are ended from outside, from now on; endless, None once a second without news."""
        with guarded():
            async with self._client.pubsub() as listener:
                await listener.subscribe(NOTICES)
                while True:
                    message = await listener.get_message(ignore_subscribe_messages=True, timeout=1.0)
                    yield message["data"].decode() if message is not None else None


def _pack(*parts: str) -> bytes:
    return orjson.dumps(parts)


def _entries(found: Any, stream: str) -> list[Any]:
    """What XREADGROUP found in one stream, in each of the three forms that redis-py 8.1 gives it by protocol version and
    `legacy_responses`."""
    streams = found.items() if isinstance(found, dict) else found or ()
    batches = [batch for name, batch in streams if name == stream.encode()]
    return [entry for batch in batches for entry in (batch[0] if isinstance(batch[0], list) else batch)]
