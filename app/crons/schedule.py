"""When a cron is due: pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterBadDateError, CroniterError

MAX_LENGTH = 200
"""Longest schedule, characters."""
_RANDOM = re.compile(r"\b[hr]\b", re.IGNORECASE)  # croniter's "any, but always the same" and "any": the second is never the same


class ScheduleInvalid(ValueError):
    """This is no schedule, or no time zone."""


def zone(name: str | None) -> tzinfo:
    """The time zone of that IANA name; UTC without one.

    Raises:
        ScheduleInvalid: There is none.
    """
    if name is None:
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # each of them is what zoneinfo raises for some text that is no name
        raise ScheduleInvalid(f"there is no time zone {name[:60]!r}; use an IANA name like Europe/Madrid") from None


def check_schedule(schedule: str) -> None:
    """Return if this is a schedule of five fields, of six (the last one seconds), or a word like `@daily`.

    Raises:
        ScheduleInvalid: It is not; the text says why.
    """
    if len(schedule) > MAX_LENGTH:
        raise ScheduleInvalid(f"a schedule has at most {MAX_LENGTH} characters")
    is_word = schedule.startswith("@")
    if not is_word and len(schedule.split()) not in (5, 6):
        raise ScheduleInvalid("a schedule has five fields (minute, hour, day, month, weekday), or a sixth for seconds")
    if not is_word and _RANDOM.search(schedule):
        raise ScheduleInvalid("H and R are not supported in a schedule")
    try:
        croniter(schedule)
    except CroniterError as exc:
        raise ScheduleInvalid(str(exc)) from None


def next_tick(schedule: str, timezone: str | None, after: datetime) -> datetime | None:
    """When a checked schedule is due the next time after `after`, in UTC; None: never again.

    Where clocks are set back, a time that names an hour comes once, as with other crons; one that comes every so often goes on.
    """
    due = croniter(schedule, after.astimezone(zone(timezone)))
    is_hourly = schedule.startswith("@") or schedule.split()[1].startswith("*")
    try:
        while True:
            local: datetime = due.get_next(datetime)
            is_second_time = local.utcoffset() != local.replace(fold=0).utcoffset()
            if is_hourly or not is_second_time:
                return local.astimezone(UTC)
    except CroniterBadDateError:
        return None
