"""SIGTERM in the middle of work: what runs is handed back and goes on elsewhere, where it was."""

from __future__ import annotations

import json
import signal
import time

import httpx
import pytest

from tests.chaos.conftest import IS_FULL
from tests.support.engine_process import STICKY
from tests.support.fleet import background, values_of, wait_until


def test_fifty_runs_survive_the_sigterm_of_the_process_that_executes_them(start_fleet, ledger, slack):
    """The service is not ready within a second and gone within 25; each run does each of its steps once, in two attempts."""
    fleet = start_fleet()
    gateway, other = fleet.gateway(step=0.25, EXECUTION="local"), fleet.gateway()
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        runs = [background(http, "slow please", stream_mode=["values", "custom"]) for _ in range(50)]
    assert all(ledger.status(run) == "running" for run in runs)
    fleet.worker(step=0.02)
    begun = time.monotonic()
    gateway.send(signal.SIGTERM)
    not_ready = wait_until(lambda: not gateway.is_ready(), 30)
    code = gateway.exit_code(60)
    gone = time.monotonic() - begun
    print(f"not ready after {not_ready:.2f} s, gone after {gone:.2f} s")  # noqa: T201
    assert code == 0, gateway.said()
    assert not_ready <= 1.0 * slack
    assert gone <= 25.0
    ledger.wait_for_end(runs, 60)
    with httpx.Client(base_url=other.url, timeout=30) as http:
        for run in runs:
            ledger.check(run, values_of(http, run))
            steps = [said["step"] for said in (json.loads(data) for name, data in ledger.events(run) if name == "custom") if "step" in said]
            assert steps == list(range(1, 25))
            assert (ledger.attempt(run), ledger.run(run).get("crashes", "0")) == (2, "0")


@pytest.mark.skipif(not IS_FULL, reason="takes the 20 s that a superstep is given; CHAOS=full runs it")
def test_a_superstep_that_hangs_is_cancelled_after_20_seconds_and_done_elsewhere(start_fleet, ledger):
    """The process is gone within 25 s, and another one ends the run."""
    fleet = start_fleet()
    gateway, hanging = fleet.gateway(), fleet.worker(hangs=True)
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        run = background(http, "hang", STICKY)
        wait_until(lambda: ledger.status(run) == "running", 30)
        fleet.worker()
        begun = time.monotonic()
        hanging.send(signal.SIGTERM)
        assert hanging.exit_code(60) == 0
        assert 19.0 <= time.monotonic() - begun <= 25.0
        ledger.wait_for_end([run], 20)
        assert values_of(http, run)["messages"][-1]["content"] == "unstuck"
    assert ledger.attempt(run) == 2
