"""`Idempotency-Key` in OpenAI's protocol: a completion that is asked for again is the same completion."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest

from app.api.openai import LOOK_EVERY
from app.runs.acceptance import RESUMABLE_LOG_TTL
from app.storage.redis.embedded import EmbeddedRedis
from app.storage.redis.idempotency import KEPT
from tests.support.fleet import Fleet, Ledger, Started, wait_until
from tests.support.provider import Provider, Reply, Request, concludes, is_routing, routes_to
from tests.support.service import Service

CHAT = "/v1/chat/completions"


def chat(text: str, **wishes: Any) -> dict[str, Any]:
    return {"model": "brisk", "messages": [{"role": "user", "content": text}], **wishes}


def submit(http: httpx.Client, key: str, body: dict[str, Any]) -> httpx.Response:
    return http.post(CHAT, json=body, headers={"idempotency-key": key})


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "streamed"])
def test_the_same_completion_again_is_the_same_run(one: httpx.Client, other: httpx.Client, streams: bool) -> None:
    """Through another process: the same bytes, and nothing has been executed twice."""
    key, body = str(uuid4()), {**chat("What does a transfer cost?", stream=streams), "model": "supervisor"}
    first, again = submit(one, key, body), submit(other, key, body)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["content-location"] == first.headers["content-location"]
    assert again.content == first.content
    assert b"transfer" in first.content
    thread_id = first.headers["content-location"].split("/")[2]
    assert len(one.get(f"/threads/{thread_id}/runs").json()) == 1


@pytest.mark.parametrize("change", [{"messages": [{"role": "user", "content": "other"}]}, {"stream": True}], ids=["messages", "stream"])
def test_another_body_under_the_same_key_is_a_conflict(one: httpx.Client, change: dict[str, Any]) -> None:
    """In OpenAI's form, with a code of ours."""
    key = str(uuid4())
    submit(one, key, chat("hello"))
    refused = submit(one, key, {**chat("hello"), **change})

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_key_reused")


def test_a_key_of_one_route_is_a_conflict_on_another(one: httpx.Client) -> None:
    """A completion is not a run that was asked for in LangGraph's words."""
    key = str(uuid4())
    submit(one, key, chat("hello"))
    body = {"assistant_id": "brisk", "input": {"messages": [{"role": "user", "content": "hello"}]}}
    refused = one.post("/runs/wait", json=body, headers={"idempotency-key": key})

    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_reused")


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "streamed"])
def test_a_caller_who_lost_the_connection_comes_back_to_its_answer(tmp_path: Path, streams: bool) -> None:
    """With a key the run goes on when its caller leaves; the same request finds it, and the models are not asked again."""
    may_answer = threading.Event()

    def behaviour(request: Request) -> Reply:
        if is_routing(request):
            return routes_to("technical_support")
        may_answer.wait(10)
        return concludes("It takes three days.")

    body = {**chat("Where is my transfer?", stream=streams), "model": "supervisor"}
    key = str(uuid4())
    with Provider(behaviour).serving() as provider:
        service = Service(tmp_path, OPENAI_BASE_URL=provider.url)
        try:
            with httpx.Client(base_url=service.start().url, timeout=30) as http:
                with pytest.raises(httpx.ReadTimeout):
                    http.post(CHAT, json=body, headers={"idempotency-key": key}, timeout=httpx.Timeout(30, read=1))
                time.sleep(3 * LOOK_EVERY)  # until the service has noticed, which nobody can see since nothing comes of it
                may_answer.set()
                wait_until(lambda: 'capataz_runs_total{graph="supervisor",status="success"} 1.0' in http.get("/metrics").text, 30)
                again = submit(http, key, body)
        finally:
            service.close()

    assert again.status_code == 200
    assert "three" in again.text
    assert len(provider.requests) == 2


def test_the_log_of_a_streamed_completion_lives_as_long_as_its_key(tmp_path: Path) -> None:
    """Or the same request would be answered with nothing after a minute."""
    fleet = Fleet(tmp_path, None)
    try:
        gateway = fleet.gateway(EXECUTION="local")
        ledger = Ledger(EmbeddedRedis(tmp_path / "data").url)
        with httpx.Client(base_url=gateway.url, timeout=30) as http:
            kept, short = submit(http, "a-key", chat("hello", stream=True)), http.post(CHAT, json=chat("hello", stream=True))
        records = [ledger.run(Started(*response.headers["content-location"].split("/")[2::2], "")) for response in (kept, short)]
    finally:
        fleet.close()

    assert [float(record["log_ttl"]) / 1000 for record in records] == [RESUMABLE_LOG_TTL, 60.0]
    assert RESUMABLE_LOG_TTL >= KEPT


def test_openais_client_can_send_the_key(pair: Any) -> None:
    """As an extra header."""
    with openai.OpenAI(base_url=f"{pair[0].url}/v1", api_key="none") as client:
        answers = [client.chat.completions.create(**chat("hello"), extra_headers={"Idempotency-Key": "mine"}) for _ in range(2)]

    assert answers[0].id == answers[1].id
