"""Which ways a run may go, and what callers see of it."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from app.runs.model import NEXT, is_final, public_run
from app.storage.redis.runs import RunRecord, RunStatus


def test_every_status_has_its_ways():
    """The table knows all statuses and leads to no other."""
    assert set(NEXT) == set(get_args(RunStatus))
    assert set().union(*NEXT.values()) <= set(NEXT)


def test_a_run_that_has_ended_stays_as_it_is():
    """Four ends, and every status that is none leads to one."""
    final = {status for status in NEXT if is_final(status)}

    assert final == {"success", "error", "timeout", "interrupted"}
    assert all(NEXT[status] & final for status in NEXT.keys() - final)


def test_a_result_needs_an_execution():
    """Before it began a run can only be cancelled."""
    assert NEXT["pending"] == {"running", "interrupted"}


def test_callers_see_nothing_of_how_a_run_is_executed():
    """Arguments, attempts and addresses stay inside; graph and assistant are among the metadata."""
    at = datetime(2026, 11, 21, tzinfo=UTC)
    run = RunRecord("r", "t", "a", "g", "success", at, at, at, metadata={"k": 1}, kwargs={"input": "secret"}, webhook="https://a.example")

    shown = public_run(run)

    assert shown["metadata"] == {"k": 1, "graph_id": "g", "assistant_id": "a"}
    assert (shown["kwargs"], shown["ended_by"]) == ({}, None)
    assert shown.keys() & {"webhook", "attempt", "crashes", "deadline_at", "log_ttl", "error"} == set()


@pytest.mark.parametrize(
    ("passed", "left"),
    [(0.0, 60.0), (20.0, 40.0), (60.0, 0.0), (3_600.0, 0.0), (-3_600.0, 60.0)],
    ids=["now", "later", "at its end", "after the clock was set on", "after the clock was set back"],
)
def test_a_run_has_what_it_was_given_whatever_the_clock_of_the_machine_does(passed, left):
    """What is left is measured once, when a process takes the run; from then on the monotonic clock counts (invariant 7)."""
    at = datetime(2026, 11, 21, tzinfo=UTC)
    run = RunRecord("r", "t", "a", "g", "pending", at, at, at + timedelta(seconds=60))

    assert run.seconds_left(at + timedelta(seconds=passed)) == left
