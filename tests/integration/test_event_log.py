"""The log of a run that writes more than the log keeps, read from memory and from Redis."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.runs.events import OVERDUE, EventLogs, LogReader
from app.storage.redis.runs import Event, RunRecord, RunRepository, as_claimed
from app.storage.redis.threads import new_thread

TENANT, KEPT, WRITTEN = "acme", 200, 1_000


async def snapshot(tenant: str, run: RunRecord) -> bytes:
    return json.dumps({"snapshot_of": run.run_id}).encode()


async def everything(reader: LogReader) -> list[Event]:
    found: list[Event] = []
    while not reader.has_ended:
        found += await reader.read(5.0)
    return found


@pytest.fixture
def runs(redis_client):
    return RunRepository(redis_client, lease=30, max_events=KEPT)


@pytest.fixture
async def long_run(runs):
    """A run that writes a thousand events, three of them read by then, and ends; its logs and its record."""
    now = datetime.now(UTC)
    run = RunRecord(str(uuid4()), str(uuid4()), "a", "g", "pending", now, now, now + timedelta(hours=1))
    accepted = await runs.accept(TENANT, run, create=new_thread(run.thread_id, {}), claims="now")
    run = as_claimed(run)
    logs = EventLogs(runs, snapshot)
    log = logs.open(TENANT, run, accepted.fence)
    for i in range(WRITTEN):
        log.append(("custom", b"%d" % i))
        if i % 50 == 0:
            await log.flush()
    await log.flush()
    end, _ = await runs.finish(TENANT, run, accepted.fence, status="success", thread_status="idle", event=("end", b"{}"))
    log.publish([end])
    return logs, run


def check(found: list[Event], run: RunRecord) -> None:
    first, *rest = found
    assert (first.name, json.loads(first.data)) == ("values", {"snapshot_of": run.run_id})
    ids = [event.id for event in found]
    assert ids == sorted(set(ids))
    assert [event.name for event in rest] == ["custom"] * (len(rest) - 1) + ["end"]
    written = [int(event.data) for event in rest[:-1]]
    assert written == list(range(WRITTEN))[-len(written) :]
    assert KEPT <= len(written) < 2 * KEPT + 200


@pytest.mark.parametrize("seen", [0, 3])
@pytest.mark.parametrize("where", ["same process", "other process"])
async def test_a_reader_who_is_too_late_gets_a_snapshot_and_the_rest(runs, long_run, seen, where):
    """From the beginning or from an event that has gone: the state as it is now, what the log still has, and the end."""
    logs, run = long_run
    if where == "other process":
        logs = EventLogs(runs, snapshot)

    check(await everything(logs.reader(TENANT, run, after=seen)), run)


async def test_a_reader_who_is_in_time_gets_no_snapshot(runs, long_run):
    """Nothing that it lacks is missing from the log."""
    _, run = long_run
    logs = EventLogs(runs, snapshot)

    found = await everything(logs.reader(TENANT, run, after=WRITTEN - 10))

    assert [event.name for event in found] == ["custom"] * 10 + ["end"]


@pytest.mark.parametrize("where", ["same process", "other process"])
async def test_a_reader_leaves_a_run_that_is_overdue(runs, where):
    """Nobody has ended it, so nothing comes: the reader goes soon after the deadline, and knows that there was no end."""
    now = datetime.now(UTC)
    run = RunRecord(str(uuid4()), str(uuid4()), "a", "g", "pending", now, now, now + timedelta(seconds=0.1))
    accepted = await runs.accept(TENANT, run, create=new_thread(run.thread_id, {}), claims="now")
    logs = EventLogs(runs, snapshot)
    log = logs.open(TENANT, as_claimed(run), accepted.fence)
    log.append(("custom", b"1"))
    await log.flush()
    reader = (logs if where == "same process" else EventLogs(runs, snapshot)).reader(TENANT, run, after=0)

    found = []
    while not reader.is_cut:
        found += await reader.read(30.0)

    assert [event.name for event in found] == ["custom"]
    assert (reader.is_overdue, reader.has_ended) == (True, False)
    assert 0.0 <= (datetime.now(UTC) - run.deadline_at).total_seconds() - OVERDUE < 10.0


async def test_what_an_ended_run_has_said_is_read_long_after_its_deadline(runs):
    """A run whose time is over is not overdue if it has ended."""
    now = datetime.now(UTC)
    run = RunRecord(str(uuid4()), str(uuid4()), "a", "g", "pending", now - timedelta(hours=1), now, now - timedelta(minutes=1))
    accepted = await runs.accept(TENANT, run, create=new_thread(run.thread_id, {}), claims="now")
    await runs.finish(TENANT, as_claimed(run), accepted.fence, status="success", thread_status="idle", event=("end", b"{}"))

    reader = EventLogs(runs, snapshot).reader(TENANT, run, after=0)

    assert [event.name for event in await everything(reader)] == ["end"]
    assert not reader.is_overdue


async def test_what_is_hidden_is_no_news_to_readers_of_a_run(runs):
    """A reader waits on, and does not take it for the silence after which it would send a heartbeat."""
    now = datetime.now(UTC)
    run = RunRecord(str(uuid4()), str(uuid4()), "a", "g", "pending", now, now, now + timedelta(hours=1))
    accepted = await runs.accept(TENANT, run, create=new_thread(run.thread_id, {}), claims="now")
    logs = EventLogs(runs, snapshot)
    log = logs.open(TENANT, as_claimed(run), accepted.fence)
    log.append(("@begun", b"{}"))
    await log.flush()

    reading = asyncio.create_task(logs.reader(TENANT, run, after=0).read(60.0))
    await asyncio.sleep(0)
    log.append(("custom", b"1"))

    assert [event.name for event in await reading] == ["custom"]
