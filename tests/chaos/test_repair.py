"""What crosses threads is written second; a process that dies in between leaves a run that the reaper finds."""

from __future__ import annotations

import httpx

from app.storage.redis.keys import BATCH_WORK, OPEN
from tests.support.fleet import background, values_of, wait_until


def test_a_run_whose_announcement_was_never_written_is_found(start_fleet, ledger):
    """Neither announced nor watched, only in its thread's queue: the sweep of any process announces it again."""
    fleet = start_fleet(LEASE_SECONDS="0.5")
    gateway = fleet.gateway()
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        run = background(http, "hello")
        ledger.redis.zrem(OPEN, *ledger.redis.zrange(OPEN, 0, -1))
        ledger.redis.xtrim(BATCH_WORK, maxlen=0, approximate=False)
        wait_until(lambda: ledger.redis.zcard(OPEN) == 1 and ledger.redis.xlen(BATCH_WORK) > 0, 30)
        fleet.worker()
        ledger.wait_for_end([run], 30)
        ledger.check(run, values_of(http, run))


def test_a_thread_that_cannot_be_looked_after_does_not_keep_others_waiting(start_fleet, ledger):
    """One thread's queue is broken; the run of another one whose worker was killed is continued all the same."""
    fleet = start_fleet(LEASE_SECONDS="1")
    gateway, worker = fleet.gateway(), fleet.worker(step=0.1)
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        runs = [background(http, "slow please") for _ in range(2)]
        wait_until(lambda: all(ledger.status(run) == "running" for run in runs), 30)
        worker.kill()
        ledger.break_queue(runs[0])
        fleet.worker()
        ledger.wait_for_end(runs[1:], 30)
        ledger.check(runs[1], values_of(http, runs[1]))
