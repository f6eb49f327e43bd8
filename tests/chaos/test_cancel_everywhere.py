"""A cancel reaches the process that executes the run, and the provider that this process listens to."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.support.fleet import background, wait_until
from tests.support.protocol import GRAPH
from tests.support.provider import Provider, Reply, is_routing, routes_to

CANCELS = 20


@pytest.mark.alone("a provider that is slow because the machine is may be given up before the cancel")
def test_a_cancel_closes_the_connection_to_the_provider_within_a_second(start_fleet, ledger, slack):
    """Through a gateway that does not execute the run; no token is logged after the cancel, which is the log's last event."""
    tokens = Reply(" ".join(f"word{i}" for i in range(5_000)), pause=0.02)
    with Provider(lambda request: routes_to("general_support") if is_routing(request) else tokens).serving() as provider:
        fleet = start_fleet(OPENAI_BASE_URL=provider.url)
        gateway, _ = fleet.gateway(), fleet.worker()
        seconds = []
        with httpx.Client(base_url=gateway.url, timeout=30) as http:
            for _ in range(CANCELS):
                provider.reader_left.clear()
                run = background(http, "How do I change my password?", GRAPH, stream_mode=["messages-tuple"])
                wait_until(lambda run=run: sum(name == "messages" for name, _ in ledger.events(run)) > 3, 30, fleet.said)
                begun = time.monotonic()
                http.post(f"/threads/{run.thread_id}/runs/{run.run_id}/cancel").raise_for_status()
                logged = ledger.events(run)
                assert logged[-1][0] == "end"
                assert provider.reader_left.wait(10), "the connection stays open"
                seconds.append(time.monotonic() - begun)
                assert ledger.events(run) == logged
                assert ledger.status(run) == "interrupted"
    p99 = max(seconds)
    print(f"{CANCELS} cancels: median {sorted(seconds)[CANCELS // 2]:.3f} s, P99 {p99:.3f} s")  # noqa: T201
    assert p99 <= 1.0 * slack
