"""`kill -9` of workers at random moments: every accepted run ends, well and once."""

from __future__ import annotations

import json
import time

import httpx

from app.runs.executor import MAX_CRASHES
from tests.support.engine_process import STICKY
from tests.support.fleet import background, values_of, wait_until


def test_no_run_is_lost_or_ended_twice_when_workers_are_killed(start_fleet, ledger, chance, count):
    """Workers die and are replaced while runs come in; each run ends with one terminal event, its answer given once."""
    fleet = start_fleet(LEASE_SECONDS="1")
    gateway = fleet.gateway()
    workers = [fleet.worker(step=0.02) for _ in range(3)]
    runs = []
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        for _ in range(count(1_000, 50)):
            runs += [background(http, "slow please"), background(http, f"word {len(runs)}")]
            time.sleep(chance.uniform(0.0, 0.2))  # the random moment, not a wait
            victim = chance.randrange(len(workers))
            workers[victim].kill()
            workers[victim] = fleet.worker(step=0.02)
        ledger.wait_for_end(runs, 60)
        for run in runs:
            ledger.check(run, values_of(http, run))
    attempts = [ledger.attempt(run) for run in runs]
    assert max(attempts) > 1, "no kill hit a run"
    print(f"{len(runs)} runs, {sum(attempts)} attempts, at most {max(attempts)} for one")  # noqa: T201


def test_a_run_begins_again_within_15_seconds_of_its_workers_death(start_fleet, ledger, count, slack):
    """With the default lease; P99 over the runs that were under way when all workers were killed at once and replaced."""
    fleet = start_fleet()
    gateway = fleet.gateway()
    size = count(4, 6)
    workers = [fleet.worker(step=0.1) for _ in range(size)]
    waits = []
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        for _ in range(count(15, 1)):
            under_way = [background(http, "slow please") for _ in range(8)]
            wait_until(lambda runs=under_way: all(ledger.status(run) == "running" for run in runs), 20)
            for worker in workers:
                worker.kill()
            killed = time.monotonic()
            workers = [fleet.worker(step=0.1) for _ in range(size)]
            for run in under_way:
                wait_until(lambda run=run: ledger.attempt(run) > 1, 60)
                waits.append(time.monotonic() - killed)
            # A run that is killed again and again before its next checkpoint is given up, and rightly so.
            ledger.wait_for_end(under_way, 60)
            for run in under_way:
                ledger.check(run, values_of(http, run))
    p99 = sorted(waits)[int(len(waits) * 0.99)]
    print(f"{len(waits)} recoveries: median {sorted(waits)[len(waits) // 2]:.1f} s, P99 {p99:.1f} s")  # noqa: T201
    assert p99 <= 15.0 * slack


def test_a_run_that_kills_every_process_is_given_up(start_fleet, ledger):
    """Each attempt takes its worker with it; in the end the run fails instead of going round the fleet for ever."""
    fleet = start_fleet(LEASE_SECONDS="0.5")
    gateway = fleet.gateway()
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        run = background(http, "die", STICKY)
        while ledger.status(run) in ("pending", "running"):
            worker = fleet.worker()
            wait_until(lambda worker=worker: worker.has_ended or ledger.status(run) == "error", 30)
    assert json.loads(ledger.run(run)["error"])["code"] == "run_crashed"
    assert [name for name, _ in ledger.events(run) if name in ("end", "error")] == ["error"]
    # Each of its three checkpoints may take as many attempts as may end before one, and then nothing gets further.
    assert ledger.attempt(run) <= (3 + 1) * MAX_CRASHES + 1
