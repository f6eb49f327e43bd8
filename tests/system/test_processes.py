"""Gateways that execute nothing and workers without HTTP: whom a caller asks makes no difference."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.fleet import Fleet, wait_until
from tests.support.ports import free_port
from tests.support.protocol import TERMINAL, Event, brisk, events, follow, new_thread, resumes
from tests.support.redis_server import RedisServer, short_directory
from tests.support.webhook_receiver import Answer, WebhookReceiver, verify

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMgbG9uZyE="
MODES = ["values", "custom", "messages-tuple"]
LIMIT = 15.0
METRICS_PORT = free_port()


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as found:
        yield found


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, receiver: WebhookReceiver) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Clients of two gateways, behind which two workers execute."""
    folder = tmp_path_factory.mktemp("fleet")
    with short_directory() as directory, RedisServer(directory) as redis:
        allowed = {"WEBHOOK_ALLOW_HOSTS": f"127.0.0.1:{receiver.port}", "WEBHOOK_SECRET": SECRET}
        fleet = Fleet(folder, redis.url, LEASE_SECONDS="2", **allowed)
        try:
            urls = [fleet.gateway().url, fleet.gateway().url]
            fleet.worker()
            fleet.worker(METRICS_PORT=str(METRICS_PORT))
            with httpx.Client(base_url=urls[0], timeout=60) as first, httpx.Client(base_url=urls[1], timeout=60) as second:
                yield first, second
        finally:
            fleet.close()


def background(http: httpx.Client, thread_id: str, body: dict[str, Any]) -> str:
    """The path of a run that was accepted."""
    run = http.post(f"/threads/{thread_id}/runs", json=body).raise_for_status().json()
    return f"/threads/{thread_id}/runs/{run['run_id']}"


def frames(came: list[Event]) -> list[str]:
    return [event.frame for event in came]


def test_a_run_is_streamed_by_a_gateway_that_did_not_accept_it(gateways: tuple[httpx.Client, httpx.Client]) -> None:
    """As it goes on, event by event, and equal to what the accepting one streams."""
    first, second = gateways
    path = background(first, new_thread(first), brisk("slow please", stream_mode=MODES, stream_resumable=True))
    times: list[float] = []
    came: list[Event] = []
    with second.stream("GET", f"{path}/stream", headers={"last-event-id": "-1"}) as response:
        for event in events(response):
            came.append(event)
            times.append(time.monotonic())

    assert [event.name for event in came if event.name in TERMINAL] == ["end"]
    assert times[-1] - times[0] > 0.5
    assert frames(follow(first, f"{path}/stream", -1)) == frames(came)


def test_a_reader_comes_back_through_the_other_gateway(gateways: tuple[httpx.Client, httpx.Client]) -> None:
    """In mid-run, with the id of the last event that it has seen."""
    first, second = gateways
    body = brisk("slow please", stream_mode=MODES, stream_resumable=True)
    came: list[Event] = []
    with first.stream("POST", f"/threads/{new_thread(first)}/runs/stream", json=body) as response:
        path = response.headers["content-location"]
        for event in events(response):
            came.append(event)
            if event.name == "custom" and event.data.get("step") == 5:
                break
    came += follow(second, f"{path}/stream", came[-1].id)

    assert frames(came) == frames(follow(first, f"{path}/stream", -1))


@pytest.mark.parametrize("is_stateless", [False, True], ids=["thread", "stateless"])
def test_a_gateway_waits_for_a_run_that_a_worker_executes(gateways: tuple[httpx.Client, httpx.Client], is_stateless: bool) -> None:
    """The values are those of the run, also if nothing of it is kept for long."""
    first, second = gateways
    path = "/runs" if is_stateless else f"/threads/{new_thread(first)}/runs"

    response = first.post(f"{path}/wait", json=brisk("hello"))
    joined = second.get(f"{response.headers['content-location']}/join")

    assert [message["content"] for message in response.json()["messages"]] == ["hello", "hello"]
    assert joined.json() == response.json()


def test_failures_and_questions_pass_through_gateways(gateways: tuple[httpx.Client, httpx.Client]) -> None:
    """`__error__` and `__interrupt__` as if it had been executed there, and the answer is given through the other one."""
    first, second = gateways
    failed = first.post("/runs/wait", json=brisk("boom")).json()
    thread_id = new_thread(first)
    asked = first.post(f"/threads/{thread_id}/runs/wait", json=brisk("refund order 7")).json()
    answered = second.post(f"/threads/{thread_id}/runs/wait", json=resumes({asked["__interrupt__"][0]["id"]: "yes"})).json()

    assert failed["__error__"]["code"] == "internal_error"
    assert asked["__interrupt__"][0]["value"]["order"] == 7
    assert answered["messages"][-1]["content"] == "order 7: yes"


def test_completions_pass_through_gateways(gateways: tuple[httpx.Client, httpx.Client]) -> None:
    """The OpenAI form, whole and streamed, with the answer and not with nothing."""
    body = {"model": "supervisor", "messages": [{"role": "user", "content": "Why was I charged a fee for my transfer?"}]}

    whole = gateways[0].post("/v1/chat/completions", json=body).raise_for_status().json()
    streamed = gateways[1].post("/v1/chat/completions", json={**body, "stream": True}).text

    assert whole["choices"][0]["message"]["content"]
    assert streamed.count('"content":"') > 3
    assert streamed.endswith("data: [DONE]\n\n")


def test_a_run_is_cancelled_through_the_other_gateway(gateways: tuple[httpx.Client, httpx.Client]) -> None:
    """Neither executes it; it ends at once, and the next run of the thread begins."""
    first, second = gateways
    thread_id = new_thread(first)
    path = background(first, thread_id, brisk("slow please", stream_mode=["custom"]))
    with first.stream("GET", f"{path}/stream", headers={"last-event-id": "-1"}) as response:
        came = events(response)
        next(event for event in came if event.data.get("step") == 2)
        began = time.monotonic()
        assert second.post(f"{path}/cancel", params={"wait": 1}).status_code == 200
        last = list(came)[-1]
        took = time.monotonic() - began

    assert (last.name, last.data["status"]) == ("end", "interrupted")
    assert took < 3.0
    assert first.post(f"/threads/{thread_id}/runs/wait", json=brisk("hello")).json()["messages"][-1]["content"] == "hello"


def test_a_delayed_run_begins_when_its_time_has_come(gateways: tuple[httpx.Client, httpx.Client]) -> None:
    """Until then it is pending, others pass it by, and its stream is open."""
    first, second = gateways
    thread_id = new_thread(first)
    path = background(first, thread_id, brisk("later", after_seconds=2, stream_resumable=True))
    accepted = time.time()
    values = first.post(f"/threads/{thread_id}/runs/wait", json=brisk("sooner")).json()
    still = second.get(path).json()["status"]

    last = second.get(f"{path}/join").json()

    assert [message["content"] for message in values["messages"]] == ["sooner", "sooner"]
    assert still == "pending"
    assert [message["content"] for message in last["messages"]] == ["sooner", "sooner", "later", "later"]
    assert 1.5 < time.time() - accepted < 3 * 3
    assert [event.name for event in follow(first, f"{path}/stream", -1)][-1] == "end"


def test_a_delayed_run_is_cancelled_before_its_time(gateways: tuple[httpx.Client, httpx.Client]) -> None:
    """It never begins."""
    first, second = gateways
    thread_id = new_thread(first)
    path = background(first, thread_id, brisk("never", after_seconds=1))

    assert second.post(f"{path}/cancel").status_code == 202

    time_is_over = background(first, thread_id, brisk("later", after_seconds=1))
    values = first.get(f"{time_is_over}/join").json()
    assert [message["content"] for message in values["messages"]] == ["later", "later"]
    assert first.get(path).json()["status"] == "interrupted"


@pytest.mark.parametrize(("text", "status"), [("hello", "success"), ("boom", "error")])
def test_the_end_of_a_run_is_told_to_its_webhook(
    gateways: tuple[httpx.Client, httpx.Client], receiver: WebhookReceiver, text: str, status: str
) -> None:
    """Once, signed, with the run and what came of it; somewhere else is refused before anything is accepted."""
    first, _ = gateways
    thread_id = new_thread(first)
    path = background(first, thread_id, brisk(text, webhook=receiver.url))
    run_id = path.rpartition("/")[2]
    refused = first.post(f"/threads/{thread_id}/runs", json=brisk(text, webhook="http://127.0.0.1:1/hook"))

    def told() -> list[Any]:
        return [request for request in list(receiver.requests) if request.said["run_id"] == run_id]

    wait_until(lambda: bool(told()), LIMIT)
    (request,) = told()
    assert verify(request, SECRET, time.time())
    assert (request.said["status"], request.said["thread_id"]) == (status, thread_id)
    if status == "success":
        assert [message["content"] for message in request.said["values"]["messages"]] == [text, text]
    else:
        assert request.said["error"]["code"] == "internal_error"
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert len(first.get(f"/threads/{thread_id}/runs").json()) == 1


def test_a_webhook_that_was_given_up_is_listed(gateways: tuple[httpx.Client, httpx.Client], receiver: WebhookReceiver) -> None:
    """Visibly dead: with its address, its run and why."""
    first, second = gateways
    receiver.answers.append(Answer(status=410))
    run_id = background(first, new_thread(first), brisk("hello", webhook=receiver.url)).rpartition("/")[2]

    wait_until(lambda: bool(second.get("/webhooks/dead-letters").json()), LIMIT)
    (letter,) = second.get("/webhooks/dead-letters").json()

    assert (letter["run_id"], letter["url"], letter["why"], letter["attempts"]) == (run_id, receiver.url, "status_410", 1)

    receiver.answers.append(Answer(status=410))
    later = background(first, new_thread(first), brisk("hello", webhook=receiver.url)).rpartition("/")[2]
    wait_until(lambda: len(second.get("/webhooks/dead-letters").json()) == 2, LIMIT)
    (latest,) = second.get("/webhooks/dead-letters", params={"limit": 1}).json()
    assert latest["run_id"] == later


def test_a_worker_counts_what_it_executes(gateways: tuple[httpx.Client, httpx.Client]) -> None:
    """It serves the same page as the service does, on a port of its own."""
    first, _ = gateways

    def worked() -> bool:
        first.post("/runs/wait", json=brisk("hello")).raise_for_status()
        return 'capataz_runs_total{graph="brisk",status="success"}' in httpx.get(f"http://127.0.0.1:{METRICS_PORT}/metrics").text

    wait_until(worked, LIMIT)
