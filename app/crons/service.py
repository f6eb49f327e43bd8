"""Crons: created, changed, found and removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson

from app.crons.schedule import ScheduleInvalid, check_schedule, next_tick, zone
from app.errors import AlreadyExists, InvalidInput, NotFound
from app.runs.request import RunRequest
from app.runs.service import RunService
from app.storage.redis.crons import CronRecord, CronRepository
from app.threads.service import ThreadService

MAX_CRONS = 500
"""Most crons of a tenant."""
MAX_CRON_BYTES = 32 * 1024
"""Most bytes of a cron's payload and metadata, as JSON."""


@dataclass(frozen=True, slots=True)
class CronSpec:
    """What its creator says of a cron; the fields are those of `CronRecord`, `request` is what each tick starts."""

    thread_id: str | None
    schedule: str
    timezone: str | None
    end_at: datetime | None
    enabled: bool
    on_run_completed: str | None
    metadata: dict[str, Any]
    payload: dict[str, Any]
    request: RunRequest


class CronService:
    """The crons of all tenants; a foreign one is never told from a missing one.

    Every method raises `StorageUnavailable` if Redis cannot be asked.

    Args:
        crons: Where records are kept.
        runs: Checks what a cron would start.
        threads: The threads that crons run on.
        now: Seconds since 1970.
    """

    def __init__(self, crons: CronRepository, runs: RunService, threads: ThreadService, now: Callable[[], float] = time.time) -> None:
        self._crons = crons
        self._runs = runs
        self._threads = threads
        self._now = now

    async def create(self, tenant: str, key_id: str, spec: CronSpec) -> CronRecord:
        """A new cron; its runs are paid for by the API key `key_id`.

        Raises:
            InvalidInput: The schedule, the time zone or what it would start is wrong, or it would never be due.
            NotFound: There is no such thread or assistant.
            AlreadyExists: The tenant has as many crons as it may.
        """
        now = datetime.fromtimestamp(self._now(), UTC)
        empty = CronRecord(str(uuid4()), "", "", None, "", None, None, True, None, {}, {}, {}, key_id, now, now)
        cron = await self._written(tenant, empty, spec, now)
        if cron.ended_by:
            raise InvalidInput("it would never be due: the schedule has no time before end_time", "never_due")
        if spec.thread_id is not None:
            await self._threads.get(tenant, spec.thread_id)
        if not await self._crons.create(tenant, cron, most=MAX_CRONS):
            raise AlreadyExists(f"there are {MAX_CRONS} crons already; delete some first", "too_many_crons")
        return cron

    async def update(self, tenant: str, cron_id: str, revise: Callable[[CronRecord], CronSpec]) -> CronRecord:
        """Change a cron into what `revise` makes of it: it ends if it is not due any more, and begins again if it is once more.

        Raises:
            NotFound: There is no such cron or assistant.
            InvalidInput: See `create`.
        """
        while True:  # until nobody else has changed it between reading and writing
            known = await self._crons.get(tenant, cron_id)
            if known is None:
                raise _missing(cron_id)
            cron = await self._written(tenant, known, revise(known), datetime.fromtimestamp(self._now(), UTC))
            if await self._crons.update(tenant, cron):
                return replace(cron, version=cron.version + 1)

    async def delete(self, tenant: str, cron_id: str) -> None:
        """Remove a cron; the runs that it has started stay.

        Raises:
            NotFound: There is none.
        """
        if not await self._crons.delete(tenant, cron_id):
            raise _missing(cron_id)

    async def find(
        self, tenant: str, *, assistant_id: str | None, thread_id: str | None, enabled: bool | None, metadata: Mapping[str, Any]
    ) -> list[CronRecord]:
        """The crons that fit, oldest first.

        Args:
            tenant: Whose crons.
            assistant_id: Only those of this assistant, by id or by the name of its graph.
            thread_id: Only those on this thread.
            enabled: Only those that are enabled, or that are not.
            metadata: Only those whose metadata hold all of this.
        """
        return [
            cron
            for cron in await self._crons.all(tenant)
            if assistant_id in (None, cron.assistant_id, cron.graph_id)
            and thread_id in (None, cron.thread_id)
            and enabled in (None, cron.enabled)
            and all(cron.metadata.get(key) == value for key, value in metadata.items())
        ]

    async def _written(self, tenant: str, known: CronRecord, spec: CronSpec, now: datetime) -> CronRecord:
        """The cron as `spec` has it, checked, with its next tick; one that has not been moved keeps the tick that it has."""
        try:
            check_schedule(spec.schedule)
        except ScheduleInvalid as exc:
            raise InvalidInput(str(exc), "invalid_schedule") from None
        try:
            zone(spec.timezone)
        except ScheduleInvalid as exc:
            raise InvalidInput(str(exc), "invalid_timezone") from None
        try:
            size = len(orjson.dumps([spec.payload, spec.metadata]))
        except TypeError as exc:
            raise InvalidInput(f"it cannot be written as JSON: {exc}") from None
        if size > MAX_CRON_BYTES:
            raise InvalidInput(f"input, metadata and the rest have at most {MAX_CRON_BYTES} bytes as JSON", "cron_too_large")
        assistant_id, graph_id = await self._runs.check(tenant, spec.request)
        is_moved = (spec.schedule, spec.timezone) != (known.schedule, known.timezone) or known.tick is None
        tick = next_tick(spec.schedule, spec.timezone, now) if is_moved else known.tick
        ended_by = ending(tick, spec.end_at)
        return replace(
            known,
            assistant_id=assistant_id,
            graph_id=graph_id,
            thread_id=spec.thread_id,
            schedule=spec.schedule,
            timezone=spec.timezone,
            end_at=spec.end_at,
            enabled=spec.enabled,
            on_run_completed=spec.on_run_completed,
            metadata=spec.metadata,
            payload=spec.payload,
            request=asdict(spec.request),
            updated_at=now,
            tick=tick if spec.enabled and not ended_by else None,
            ended_by=ended_by,
        )


def ending(tick: datetime | None, end_at: datetime | None) -> str:
    """By what a cron has ended whose next time would be `tick`; empty: it has not."""
    if tick is None:
        return "schedule"
    return "end_time" if end_at is not None and tick > end_at else ""


def _missing(cron_id: str) -> NotFound:
    return NotFound(f"there is no cron {cron_id}", "cron_not_found")
