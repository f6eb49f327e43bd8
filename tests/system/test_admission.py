"""A service whose provider is full: what is refused, what is not, and what the refused are told."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.support.protocol import says
from tests.support.provider import Reply, Request, concludes, is_routing, routes_to
from tests.system.conftest import StartProvider, StartService

PACE = 0.4
"""How long the provider takes for a call, seconds; it gets one at a time."""


def slow(request: Request) -> Reply:
    time.sleep(PACE)
    return routes_to("general_support") if is_routing(request) else concludes("We open at nine.")


def test_a_full_service_refuses_new_runs_and_still_knows_those_it_has_taken(
    start_service: StartService, start_provider: StartProvider
) -> None:
    """503, `overloaded`, Retry-After; the same Idempotency-Key finds its run; a batch run may wait; afterwards all is as before."""
    provider = start_provider(slow)
    service = start_service(OPENAI_API_KEY="k", OPENAI_BASE_URL=provider.url, MAX_MODEL_CALLS="1", QUEUE_SHARE="0.01")
    question = {"assistant_id": "supervisor", **says("When do you open?")}
    with httpx.Client(base_url=service.url, timeout=60) as http, ThreadPoolExecutor(8) as pool:
        assert http.post("/runs/wait", json=question).json()["answer"]  # one to learn from
        thread = http.post("/threads", json={}).json()["thread_id"]
        key = {"Idempotency-Key": "one", "X-Priority": "default"}
        taken = http.post(f"/threads/{thread}/runs", json=question, headers=key)
        answers = list(pool.map(lambda _: http.post("/runs/wait", json=question), range(8)))
        again = http.post(f"/threads/{thread}/runs", json=question, headers=key)
        batch = http.post(f"/threads/{thread}/runs", json={**question, "multitask_strategy": "enqueue"}, headers={"X-Priority": "batch"})
        metrics = http.get("/metrics").text
        openai = [
            pool.submit(http.post, "/v1/chat/completions", json={"model": "supervisor", "messages": question["input"]["messages"]})
            for _ in range(8)
        ]
        codes = [answer.result() for answer in openai]
        last = http.get(f"/threads/{thread}/runs/{batch.json()['run_id']}/join").status_code

        assert taken.status_code == 200
        assert again.json()["run_id"] == taken.json()["run_id"]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert refused
        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert all(answer.json()["answer"] for answer in answers if answer.status_code == 200)
        assert (batch.status_code, last) == (200, 200)
        assert 'capataz_runs_refused_total{priority="default",reason="queue"}' in metrics
        assert {answer.json()["error"]["code"] for answer in codes if answer.status_code != 200} == {"overloaded"}
        assert http.post("/runs/wait", json=question).json()["answer"]
