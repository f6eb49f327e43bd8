"""When crons are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.crons.schedule import MAX_LENGTH, ScheduleInvalid, check_schedule, next_tick, zone


def ticks(schedule: str, timezone: str | None, after: str, count: int) -> list[str]:
    found, at = [], datetime.fromisoformat(after)
    for _ in range(count):
        tick = next_tick(schedule, timezone, at)
        assert tick is not None
        at = tick
        found.append(at.astimezone(zone(timezone)).isoformat(timespec="minutes"))
    return found


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("*/15 * * * *", "2026-11-27T10:15:00+00:00"),
        ("0 9 * * mon-fri", "2026-11-30T09:00:00+00:00"),
        ("* * * * * */20", "2026-11-27T10:00:20+00:00"),
        ("@daily", "2026-11-28T00:00:00+00:00"),
        ("0 0 l * *", "2026-11-30T00:00:00+00:00"),
    ],
)
def test_a_tick_is_the_first_time_after_now(schedule: str, expected: str) -> None:
    """Never now itself, so a tick that was started is not started again."""
    check_schedule(schedule)
    assert next_tick(schedule, None, datetime(2026, 11, 27, 10, tzinfo=UTC)) == datetime.fromisoformat(expected)


def test_a_time_zone_moves_with_its_summer_time() -> None:
    assert ticks("0 9 * * *", "Europe/Madrid", "2026-03-28T00:00:00+00:00", 2) == ["2026-03-28T09:00+01:00", "2026-03-29T09:00+02:00"]


def test_an_hour_that_comes_twice_ticks_once() -> None:
    """A daily time ticks once on the day when clocks are set back; every half hour is every half hour."""
    daily = ticks("30 2 * * *", "Europe/Madrid", "2026-10-24T12:00:00+00:00", 2)
    assert daily == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]
    often = ticks("*/30 * * * *", "Europe/Madrid", "2026-10-24T23:45:00+00:00", 4)
    assert often == ["2026-10-25T02:00+02:00", "2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"]


def test_an_hour_that_is_left_out_still_ticks() -> None:
    """On the day when clocks are set forward a time that does not exist is made up for at the next hour."""
    assert ticks("30 2 * * *", "Europe/Madrid", "2026-03-28T12:00:00+00:00", 2) == ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]


def test_a_time_that_never_comes_is_no_tick() -> None:
    check_schedule("0 0 30 2 *")
    assert next_tick("0 0 30 2 *", None, datetime(2026, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "* * * *",
        "* * * * * * *",
        "61 * * * *",
        "*/0 * * * *",
        "soon",
        "@reboot",
        "@soon",
        "H * * * *",
        "r(1-5) * * * *",
        "* " * MAX_LENGTH,
    ],
)
def test_what_is_no_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ScheduleInvalid):
        check_schedule(schedule)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "/etc/passwd", "Europe", "UTC\0", "x" * 5000, "utc+2"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ScheduleInvalid):
        zone(name)


@given(
    st.sampled_from(["* * * * *", "*/7 */5 * * *", "30 2 * * *", "0 0 1 * *", "@hourly", "15 1-3 * * sun"]),
    st.sampled_from([None, "Europe/Madrid", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)),
)
def test_ticks_always_go_forward(schedule: str, timezone: str | None, after: datetime) -> None:
    """Also over changes of the clock, in whatever zone."""
    at = after.replace(tzinfo=UTC)
    for _ in range(5):
        tick = next_tick(schedule, timezone, at)
        assert tick is not None
        assert at < tick < at + timedelta(days=33)
        at = tick
