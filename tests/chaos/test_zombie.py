"""A worker that stands still past its lease: it is not missed, and when it comes back it writes nothing."""

from __future__ import annotations

import signal

import httpx

from tests.support.engine_process import STICKY
from tests.support.fleet import background, values_of, wait_until
from tests.support.webhook_receiver import WebhookReceiver

SECRET = "whsec_YSBzZWNyZXQgZm9yIHRlc3RzIG9mIDMyIGJ5dGVzISE="


def test_a_worker_that_was_stopped_past_its_lease_writes_nothing(start_fleet, ledger):
    """Its runs are ended elsewhere, once; nothing of their threads changes when it goes on, and no webhook comes twice."""
    with WebhookReceiver() as receiver:
        fleet = start_fleet(LEASE_SECONDS="1", WEBHOOK_SECRET=SECRET, WEBHOOK_ALLOW_HOSTS=f"127.0.0.1:{receiver.port}")
        gateway, zombie = fleet.gateway(), fleet.worker(step=0.1)
        with httpx.Client(base_url=gateway.url, timeout=30) as http:
            runs = [background(http, "slow please", webhook=receiver.url) for _ in range(8)]
            wait_until(lambda: all(len(ledger.events(run)) > 4 for run in runs), 30)
            zombie.send(signal.SIGSTOP)
            assert all(ledger.status(run) == "running" for run in runs)
            fleet.worker(step=0.02)
            ledger.wait_for_end(runs, 60)
            receiver.wait(len(runs))
            before = {run: ledger.everything(run.thread_id) for run in runs}
            zombie.send(signal.SIGCONT)
            wait_until(
                lambda: all(any(_has_left(line, run.run_id) for line in zombie.said().splitlines()) for run in runs), 30, zombie.said
            )
            assert {run: ledger.everything(run.thread_id) for run in runs} == before
            for run in runs:
                ledger.check(run, values_of(http, run))
                assert ledger.attempt(run) == 2
        assert len(receiver.requests) == len({request.id for request in receiver.requests}) == len(runs)


def test_a_node_that_blocks_the_event_loop_keeps_its_lease(start_fleet, ledger, count):
    """Three leases long nothing else happens in the process; the run is not taken from it by the other worker."""
    fleet = start_fleet(LEASE_SECONDS="2")
    gateway = fleet.gateway()
    for _ in range(2):
        fleet.worker()
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        run = background(http, f"block {count(30, 6)}", STICKY)
        ledger.wait_for_end([run], 60)
        assert values_of(http, run)["messages"][-1]["content"] == "unstuck"
    assert (ledger.status(run), ledger.attempt(run)) == ("success", 1)


def _has_left(line: str, run_id: str) -> bool:
    return "run_left" in line and run_id in line
