"""A completion whose caller has gone is not worth another token."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.support.fleet import wait_until
from tests.support.provider import Provider, Reply
from tests.support.service import Service

BODY = {"model": "supervisor", "messages": [{"role": "user", "content": "Why was I charged a fee for my transfer?"}]}


def test_a_caller_who_leaves_a_plain_completion_takes_the_run_along(tmp_path: Path) -> None:
    """The run is cancelled within a second (3 s here), long before the hanging provider is given up."""
    with Provider(lambda request: Reply(hangs=True)).serving() as provider:
        service = Service(tmp_path, OPENAI_BASE_URL=provider.url)
        try:
            service.start()
            with httpx.Client(base_url=service.url) as client, pytest.raises(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=BODY, timeout=httpx.Timeout(10, read=1))
            left = time.monotonic()
            wait_until(lambda: 'capataz_runs_total{graph="supervisor",status="interrupted"} 1.0' in metrics(service), 10)

            assert time.monotonic() - left < 3
            assert len(provider.requests) == 1
        finally:
            service.close()


def metrics(service: Service) -> str:
    return httpx.get(f"{service.url}/metrics").text
