"""Starts what is due: one run per tick, whichever process looks first, and whatever dies in between (ADR-0031)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.crons.schedule import next_tick
from app.crons.service import ending
from app.errors import AlreadyExists, AppError, NotFound, NotReady, Overloaded
from app.guards.rate_limits import RequestLimit
from app.runs.request import RunRequest
from app.runs.service import RunService
from app.storage.errors import StorageError
from app.storage.redis.crons import CronRecord, CronRepository, DueCron
from app.telemetry.logging import get_logger
from app.threads.service import ThreadService
from resilience.context import Priority

LOOK_EVERY = 1.0
"""How often a process looks for crons that are due, seconds."""
_BATCH = 50


@dataclass(frozen=True, slots=True)
class _Ticked:
    """What became of a tick: started, or refused for good, or by the end of its thread."""

    ended_by: str = ""
    error: dict[str, str] | None = None


class CronTicker:
    """One per process; all of them together start each tick once.

    A tick is claimed for a while, and its run accepted under an idempotency key made of cron and tick. So a process that dies in between,
    or is only slow, leaves a tick that is claimed again and is the same run. Only then is the next tick set, from now on: however long
    nobody ticked, one run makes up for it.

    Args:
        crons: Where crons are kept.
        runs: Starts runs.
        threads: The threads that crons run on.
        limit: The allowance of the API keys that pay for the runs; None: there is no limit.
        now: Seconds since 1970, about the same in all processes.
    """

    def __init__(
        self,
        crons: CronRepository,
        runs: RunService,
        threads: ThreadService,
        limit: RequestLimit | None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._crons = crons
        self._runs = runs
        self._threads = threads
        self._limit = limit
        self._now = now

    async def run(self) -> None:
        """Tick for ever, as long as runs are accepted here; the outermost frame of a task."""
        while True:
            try:
                while self._runs.is_open and await self.look() == _BATCH:
                    pass
            except StorageError as exc:
                get_logger().warning("crons_without_storage", code=exc.code)
            except Exception:
                get_logger().exception("crons_failed")
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> int:
        """Start what is due; returns how many ticks were claimed."""
        claimed = await self._crons.claim(limit=_BATCH)
        for due in claimed:
            ticked = await self._start(due)
            if ticked is not None:
                await self._settle(due, ticked)
        return len(claimed)

    async def _start(self, due: DueCron) -> _Ticked | None:
        """Start the tick's run; None: it could not be now, and will be tried again when the claim has run out."""
        cron = due.cron
        assert cron.tick is not None
        name = f"cron/{cron.cron_id}/{cron.tick.timestamp():.0f}"
        try:
            if self._limit is not None and not (await self._limit.spend(due.tenant, cron.key_id)).is_allowed:
                get_logger().info("cron_put_off", cron_id=cron.cron_id, code="rate_limited")
                return None
            started = await self._runs.start(due.tenant, cron.thread_id, _request(cron), idempotency=(name, name))
        except (Overloaded, NotReady, StorageError) as exc:
            get_logger().info("cron_put_off", cron_id=cron.cron_id, code=exc.code)
            return None
        except AlreadyExists as exc:
            if exc.code == "run_removed":  # an earlier claim has started it, and it is gone by now
                return _Ticked()
            return await self._refused(due, exc)
        except AppError as exc:
            return await self._refused(due, exc)
        except Exception:
            get_logger().exception("cron_failed", cron_id=cron.cron_id)
            return _Ticked(error={"code": "internal_error", "detail": "the run could not be accepted; the service's log says why"})
        get_logger().info("cron_ticked", cron_id=cron.cron_id, run_id=started.record.run_id)
        return _Ticked()

    async def _refused(self, due: DueCron, exc: AppError) -> _Ticked:
        """The tick is passed over; a cron whose thread is gone has ended."""
        get_logger().warning("cron_refused", cron_id=due.cron.cron_id, code=exc.code)
        error = {"code": exc.code, "detail": exc.detail}
        if due.cron.thread_id is not None:
            try:
                await self._threads.get(due.tenant, due.cron.thread_id)
            except NotFound:
                return _Ticked("thread_deleted", error)
        return _Ticked(error=error)

    async def _settle(self, due: DueCron, ticked: _Ticked) -> None:
        """Set the next tick, by the cron as it is by now; one that was moved meanwhile has its next tick."""
        cron: CronRecord | None = due.cron
        while cron is not None and cron.tick == due.cron.tick:
            tick = next_tick(cron.schedule, cron.timezone, max(datetime.fromtimestamp(self._now(), UTC), due.cron.tick or cron.created_at))
            ended_by = ticked.ended_by or ending(tick, cron.end_at)
            if await self._crons.settle(
                replace(due, cron=cron), tick=None if ended_by else tick, ended_by=ended_by, last_error=ticked.error
            ):
                if ended_by:
                    get_logger().info("cron_ended", cron_id=cron.cron_id, ended_by=ended_by)
                return
            cron = await self._crons.get(due.tenant, due.cron.cron_id)


def _request(cron: CronRecord) -> RunRequest:
    """What a tick starts; its run says which cron and which tick it is of."""
    assert cron.tick is not None
    request = RunRequest(**{**cron.request, "priority": Priority(cron.request["priority"])})
    return replace(request, metadata={**request.metadata, "cron_id": cron.cron_id, "cron_tick": cron.tick.isoformat()})
