"""Redis dies and comes back in the middle of runs: they end, once; meanwhile nobody waits for an answer in vain."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx

from app.storage.redis.embedded import EmbeddedRedis
from tests.support.engine_process import BRISK
from tests.support.fleet import Fleet, Ledger, background, values_of, wait_until
from tests.support.redis_server import RedisServer, short_directory

SLOW = {"assistant_id": BRISK, "input": {"messages": [{"role": "user", "content": "slow please"}]}}


def test_runs_outlive_a_restart_of_redis(tmp_path):
    """A server with its file on disk is killed and started again: 503 meanwhile, alive all the time, then every run ends once."""
    with short_directory() as directory, RedisServer(directory, keeps=True) as server:
        fleet = Fleet(tmp_path, server.url, LEASE_SECONDS="2")
        try:
            gateway = fleet.gateway(step=0.15, EXECUTION="local")
            ledger = Ledger(server.url)
            with httpx.Client(base_url=gateway.url, timeout=30) as http, ThreadPoolExecutor() as readers:
                runs = [background(http, "slow please") for _ in range(10)]
                open_requests = [readers.submit(_read, gateway.url, path) for path in ("/runs/stream", "/runs/wait")]
                wait_until(lambda: all(len(ledger.events(run)) > 4 for run in runs), 30)
                server.kill()
                wait_until(lambda: not gateway.is_ready(), 10)
                refused = http.post("/threads", json={})
                assert refused.status_code == 503
                assert "retry-after" in refused.headers
                assert http.get("/health/live").status_code == 200
                assert 'capataz_redis_errors_total{error_type="ConnectionError",operation="create_thread"} 1.0' in http.get("/metrics").text
                server.start()
                _check(ledger, http, runs)
                assert [request.result(60) for request in open_requests] == [200, 200]
        finally:
            fleet.close()


def test_runs_outlive_a_crash_of_the_embedded_redis(tmp_path):
    """Its keeper starts it again at once, and every run ends once."""
    fleet = Fleet(tmp_path, None, LEASE_SECONDS="2")
    try:
        gateway = fleet.gateway(step=0.15, EXECUTION="local")
        ledger = Ledger(EmbeddedRedis(tmp_path / "data").url)
        with httpx.Client(base_url=gateway.url, timeout=30) as http:
            runs = [background(http, "slow please") for _ in range(10)]
            wait_until(lambda: all(len(ledger.events(run)) > 4 for run in runs), 30)
            os.kill(ledger.redis.info("server")["process_id"], signal.SIGKILL)
            wait_until(gateway.is_ready, 30)
            _check(ledger, http, runs)
    finally:
        fleet.close()


def _check(ledger, http, runs) -> None:
    wait_until(ledger.answers, 30)
    ledger.wait_for_end(runs, 60)
    for run in runs:
        ledger.check(run, values_of(http, run))


def _read(url: str, path: str) -> int:
    """The status of an answer, once it is complete or was cut."""
    with httpx.stream("POST", f"{url}{path}", json=SLOW, timeout=60) as response:
        with contextlib.suppress(httpx.RemoteProtocolError):
            response.read()
        return response.status_code
