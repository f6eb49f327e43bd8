"""Processes that die or hang under a running conversation: no accepted run is lost in silence, and no request waits for the dead."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import httpx
import pytest
from redis import Redis

from app.runs.executor import LEASE
from tests.support.protocol import TERMINAL, Event, ask, events, follow, new_thread, says
from tests.support.provider import Provider, Reply, concludes, is_routing, routes_to
from tests.support.service import Service
from tests.system.conftest import StartProvider, StartService

ANSWER = "one two three four"
FAIL_FAST = 2.0
"""Longest silence of Redis that a request bears, seconds (`command_timeout`)."""
DRAIN_LIMIT = 25.0


class Talker:
    """A service whose model stops in mid-answer until it is let go."""

    def __init__(self, start_service: StartService, start_provider: StartProvider) -> None:
        self.may_go_on = threading.Event()
        self.replies: Iterator[Reply] = repeat(Reply(ANSWER, waits_after=(2, self.may_go_on), calls=concludes("").calls))
        provider = start_provider(lambda request: routes_to("technical_support") if is_routing(request) else next(self.replies))
        self.service: Service = start_service(OPENAI_BASE_URL=provider.url)

    @contextmanager
    def in_mid_answer(self, http: httpx.Client, thread_id: str) -> Iterator[tuple[str, Iterator[Event]]]:
        """A streamed run that has said its first words: its path, and the events to come."""
        self.may_go_on.clear()
        body = {**says("count"), "stream_mode": ["messages-tuple"], "stream_resumable": True}
        with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
            came = events(response)
            assert any(event.name == "messages" and event.data[0]["content"] for event in came)
            yield response.headers["content-location"], came


@pytest.fixture
def talker(start_service: StartService, start_provider: StartProvider) -> Iterator[Talker]:
    found = Talker(start_service, start_provider)
    yield found
    found.may_go_on.set()


@pytest.fixture
def http(talker: Talker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=talker.service.url, timeout=60) as client:
        yield client


def redis_process(service: Service) -> int:
    with Redis.from_url(service.redis_url) as redis:
        process: int = redis.info("server")["process_id"]
        return process


def asked_again_until_free(http: httpx.Client, thread_id: str, within: float) -> dict[str, Any]:
    """The values of a run on a busy thread, asked for as often as its refusals say."""
    end = time.monotonic() + within
    while (response := http.post(f"/threads/{thread_id}/runs/wait", json=says("count"))).status_code == 409:
        assert time.monotonic() < end, f"the thread is still busy after {within} s"
        time.sleep(float(response.headers["retry-after"]))
    values: dict[str, Any] = response.raise_for_status().json()
    return values


@dataclass(frozen=True)
class Wreck:
    """A service whose predecessor was killed in mid-answer on two threads; the first had been answered before."""

    http: httpx.Client
    before: dict[str, Any]
    threads: tuple[str, str]
    runs: tuple[str, str]


@pytest.fixture(scope="module")
def wreck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wreck]:
    with ExitStack() as stack:

        def start_service(**variables: str) -> Service:
            service = Service(tmp_path_factory.mktemp("wreck"), **variables)
            stack.callback(service.close)
            return service.start()

        talker = Talker(start_service, lambda behaviour: stack.enter_context(Provider(behaviour).serving()))
        http = stack.enter_context(httpx.Client(base_url=talker.service.url, timeout=60))
        talker.may_go_on.set()
        first, second = new_thread(http), new_thread(http)
        before = ask(http, "count", first)
        with talker.in_mid_answer(http, first) as (one, _), talker.in_mid_answer(http, second) as (other, _):
            talker.service.kill()
        talker.may_go_on.set()
        talker.service.start()
        yield Wreck(http, before, (first, second), (one, other))


def test_a_thread_is_free_again_after_its_run_died_with_the_service(wreck: Wreck) -> None:
    """Within the lease: the dead run is an error with one terminal event, what was said before is there, and a new run works."""
    values = asked_again_until_free(wreck.http, wreck.threads[0], within=3 * LEASE)

    assert wreck.http.get(wreck.runs[0]).json()["status"] == "error"
    log = follow(wreck.http, f"{wreck.runs[0]}/stream", -1)
    assert [(event.name, event.data["code"]) for event in log if event.name in TERMINAL] == [("error", "run_abandoned")]
    assert log[-1].name == "error"
    assert values["answer"] == ANSWER
    assert values["messages"][: len(wreck.before["messages"])] == wreck.before["messages"]
    assert wreck.http.get(f"/threads/{wreck.threads[0]}").json()["status"] == "idle"


def test_who_follows_a_run_learns_that_it_died_with_the_service(wreck: Wreck) -> None:
    """A client that comes back to the stream is not left with heartbeats: within the lease it gets the terminal event."""
    begun = time.monotonic()

    log = follow(wreck.http, f"{wreck.runs[1]}/stream", -1)

    assert time.monotonic() - begun < 3 * LEASE
    assert [(event.name, event.data["code"]) for event in log if event.name in TERMINAL] == [("error", "run_abandoned")]
    assert wreck.http.get(wreck.runs[1]).json()["status"] == "error"
    assert wreck.http.get(f"/threads/{wreck.threads[1]}").json()["status"] == "error"
    assert ask(wreck.http, "count", wreck.threads[1])["answer"] == ANSWER


def test_a_killed_redis_is_replaced_under_the_running_service(talker: Talker, http: httpx.Client) -> None:
    """Until it is, requests are refused at once with a time to come back; the conversation survives, and so does a run under way."""
    talker.may_go_on.set()
    thread_id, other = new_thread(http), new_thread(http)
    before = ask(http, "count", thread_id)
    with talker.in_mid_answer(http, other) as (path, came):
        os.kill(redis_process(talker.service), signal.SIGKILL)
        end = time.monotonic() + 30
        while (response := _timed(http, f"/threads/{thread_id}")).status_code != 200:
            assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
            assert response.headers["retry-after"]
            assert http.get("/health/live").status_code == 200
            assert time.monotonic() < end
        talker.may_go_on.set()
        rest = list(came)

    assert response.json()["values"] == before
    assert len([event for event in rest if event.name in TERMINAL]) <= 1
    assert asked_again_until_free(http, other, within=3 * LEASE)["answer"] == ANSWER
    assert http.get(path).json()["status"] in ("success", "error")
    assert ask(http, "count", thread_id)["answer"] == ANSWER


def test_a_redis_that_hangs_hangs_nobody(talker: Talker, http: httpx.Client) -> None:
    """Every route that needs it answers 503 in time; the process is alive and not ready, and works again when Redis does."""
    talker.may_go_on.set()
    thread_id = new_thread(http)
    ask(http, "count", thread_id)
    process = redis_process(talker.service)
    os.kill(process, signal.SIGSTOP)
    requests: list[tuple[str, object]] = [
        (f"/threads/{thread_id}", None),
        (f"/threads/{thread_id}/state", None),
        ("/threads", {}),
        (f"/threads/{thread_id}/runs/wait", says("count")),
        ("/runs/stream", says("count")),
        ("/health/ready", None),
        ("/v1/chat/completions", {"model": "supervisor", "messages": [{"role": "user", "content": "count"}]}),
    ]
    try:
        with ThreadPoolExecutor(len(requests)) as pool:
            *refused, chat = pool.map(lambda request: _timed(http, *request), requests)
        alive = http.get("/health/live")
    finally:
        os.kill(process, signal.SIGCONT)

    assert [(response.status_code, response.json()["code"]) for response in refused] == [(503, "storage_unavailable")] * len(refused)
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
    assert alive.status_code == 200
    assert chat.status_code == 503
    assert chat.json()["error"]["type"] == "server_error"
    assert asked_again_until_free(http, thread_id, within=3 * LEASE)["answer"] == ANSWER
    assert http.get("/health/ready").status_code == 200


def test_a_service_that_is_told_to_stop_lets_a_run_finish(talker: Talker, http: httpx.Client) -> None:
    """It takes nothing new, the reader gets the rest of the answer and the end, and the process ends well."""
    with talker.in_mid_answer(http, new_thread(http)) as (_, came):
        talker.service.process.send_signal(signal.SIGTERM)
        _until_not_ready(talker.service)
        talker.may_go_on.set()
        rest = list(came)

    assert (rest[-1].name, rest[-1].data["status"]) == ("end", "success")
    assert talker.service.process.wait(3 * DRAIN_LIMIT) == 0


def test_a_service_that_is_told_to_stop_does_not_wait_forever(talker: Talker, http: httpx.Client) -> None:
    """A run that does not end is stopped and says so; the thread is free in the next process."""
    thread_id, begun, patient = new_thread(http), time.monotonic(), talker.replies
    desks = ("general_support", "billing_support", "technical_support")
    talker.replies = (
        Reply("one two three four five six", (("hand_back", {"reason": "not mine", "suggestion": desk}),), pause=1.0) for desk in desks
    )
    with talker.in_mid_answer(http, thread_id) as (path, came):
        talker.service.process.send_signal(signal.SIGTERM)
        _until_not_ready(talker.service)
        with pytest.raises(httpx.TransportError):
            list(came)
        assert talker.service.process.wait(3 * DRAIN_LIMIT) == 0
    assert time.monotonic() - begun < 3 * DRAIN_LIMIT
    talker.replies = patient
    talker.may_go_on.set()
    talker.service.start()

    log = follow(http, f"{path}/stream", -1)

    assert [(event.name, event.data["status"]) for event in log if event.name in TERMINAL] == [("end", "interrupted")]
    assert http.get(path).json()["status"] == "interrupted"
    assert ask(http, "count", thread_id)["answer"] == ANSWER


def _timed(http: httpx.Client, path: str, json: object = None) -> httpx.Response:
    """The answer, which must come in time."""
    response = http.get(path) if json is None else http.post(path, json=json)
    assert response.elapsed.total_seconds() < 3 * FAIL_FAST, f"{path} took {response.elapsed}"
    return response


def _until_not_ready(service: Service) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if httpx.get(f"{service.url}/health/ready", timeout=2).status_code != 200:
                return
        except httpx.TransportError:
            return
    raise AssertionError("the service is still ready")
