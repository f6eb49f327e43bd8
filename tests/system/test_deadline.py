"""`X-Deadline-Ms` and `X-Priority`: what a caller may say of its run, and that it holds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import openai
import pytest

from app.storage.redis.embedded import EmbeddedRedis
from tests.support.fleet import Fleet, Ledger, Member, Started
from tests.support.protocol import brisk, events, new_thread, resumes, says
from tests.support.provider import Reply
from tests.system.conftest import StartProvider, StartService

SLOW = "slow please"
"""The brisk graph takes 1.2 s for it with its usual steps, 12 s with those of this file."""
STEP = 0.5
SLACK = 3
"""Promises about time are asserted at three times their value: machines of a CI are shared."""
CHAT: Any = {"model": "brisk", "messages": [{"role": "user", "content": SLOW}]}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    found = Fleet(tmp_path_factory.mktemp("deadlines"), None)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def usual(fleet: Fleet) -> Member:
    """A service with the default deadlines: 60 s, at most 600, and 3,600 in the background."""
    return fleet.gateway(step=STEP, EXECUTION="local")


@pytest.fixture(scope="module")
def hasty(fleet: Fleet) -> Member:
    """A service with deadlines of its own."""
    return fleet.gateway(step=STEP, EXECUTION="local", DEADLINE_SECONDS="1", MAX_DEADLINE_SECONDS="1.5", BACKGROUND_DEADLINE_SECONDS="1.2")


@pytest.fixture
def http(usual: Member) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=usual.url, timeout=60) as client:
        yield client


@pytest.fixture
def hurry(hasty: Member) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hasty.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def ledger(usual: Member) -> Iterator[Ledger]:
    found = Ledger(EmbeddedRedis(usual.log.parent / "data").url)
    yield found
    found.redis.close()


def record(ledger: Ledger, response: httpx.Response) -> dict[str, str]:
    """What is stored of the run that a request has started."""
    _, _, thread_id, _, run_id = response.headers["content-location"].split("/")
    return ledger.run(Started(thread_id, run_id, ""))


def seconds(stored: dict[str, str]) -> float:
    """How long a run may take, by its record."""
    return (datetime.fromisoformat(stored["deadline_at"]) - datetime.fromisoformat(stored["created_at"])).total_seconds()


def priority(stored: dict[str, str]) -> int:
    found: int = json.loads(stored["kwargs"])["priority"]
    return found


# --- the deadline -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["stateless", "thread"])
def test_a_waited_run_ends_within_what_its_caller_gave_it(http: httpx.Client, prefix: str) -> None:
    """It was accepted, so it is a 200 that says in `__error__` what became of it."""
    path = "/runs/wait" if prefix == "stateless" else f"/threads/{new_thread(http)}/runs/wait"
    begun = time.monotonic()
    response = http.post(path, json=brisk(SLOW), headers={"x-deadline-ms": "700"})
    took = time.monotonic() - begun

    assert response.status_code == 200
    error = response.json()["__error__"]
    assert (error["error"], error["code"]) == ("DeadlineExceeded", "deadline_exceeded")
    assert 0.6 < took < 0.7 * SLACK
    assert http.get(response.headers["content-location"]).json()["status"] == "timeout"


def test_a_streamed_run_ends_within_what_its_caller_gave_it(http: httpx.Client) -> None:
    """With the one terminal event `error`, which has the code; what came before it stays."""
    begun = time.monotonic()
    headers = {"x-deadline-ms": "1400"}
    with http.stream("POST", "/runs/stream", json=brisk(SLOW, stream_mode=["custom"]), headers=headers) as response:
        came = list(events(response))
    took = time.monotonic() - begun

    assert [event.name for event in came[:3]] == ["metadata", "custom", "custom"]
    assert [event.name for event in came].count("error") == 1
    assert (came[-1].name, came[-1].data["code"]) == ("error", "deadline_exceeded")
    assert 1.3 < took < 1.4 * SLACK


def test_a_completion_ends_within_what_its_caller_gave_it(usual: Member) -> None:
    """OpenAI's client gives it as an extra header, and is told in its own error."""
    with openai.OpenAI(base_url=f"{usual.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as failed:
            client.chat.completions.create(**CHAT, extra_headers={"X-Deadline-Ms": "500"})
        with pytest.raises(openai.APIError) as broken:
            list(client.chat.completions.create(**CHAT, stream=True, extra_headers={"X-Deadline-Ms": "500"}))

    assert (failed.value.code, broken.value.code) == ("deadline_exceeded", "deadline_exceeded")


def test_a_run_that_is_quick_enough_does_not_notice(http: httpx.Client) -> None:
    """A deadline is no delay."""
    values = http.post("/runs/wait", json=brisk("hello"), headers={"x-deadline-ms": "5000"}).json()

    assert [message["content"] for message in values["messages"]] == ["hello", "hello"]


def test_without_the_header_the_services_default_holds(http: httpx.Client, ledger: Ledger) -> None:
    """60 s for whoever waits or follows, an hour in the background; the run's record has it as an instant."""
    thread = f"/threads/{new_thread(http)}/runs"
    waited = http.post("/runs/wait", json=brisk("hello"))
    streamed = http.post(f"{thread}/stream", json=brisk("hello"))
    later = [http.post(path, json=brisk("hello", multitask_strategy="enqueue")) for path in ("/runs", thread)]

    assert [seconds(record(ledger, response)) for response in (waited, streamed)] == [60.0] * 2
    assert [seconds(record(ledger, response)) for response in later] == [3600.0] * 2


def test_with_the_header_the_callers_instant_is_stored(http: httpx.Client, ledger: Ledger) -> None:
    """So that it holds in whichever process the run goes on; up to the maximum, that included."""
    given = {"/runs/wait": "1234", "/runs/stream": "600000", "/runs": "3600000"}
    stored = {path: record(ledger, http.post(path, json=brisk("hello"), headers={"x-deadline-ms": ms})) for path, ms in given.items()}

    assert {path: seconds(run) * 1000 for path, run in stored.items()} == {path: float(ms) for path, ms in given.items()}


def test_the_defaults_are_settings_and_hold(hurry: httpx.Client) -> None:
    """`DEADLINE_SECONDS`, and `BACKGROUND_DEADLINE_SECONDS` for a run that nobody waits for."""
    begun = time.monotonic()
    waited = hurry.post("/runs/wait", json=brisk(SLOW))
    took = time.monotonic() - begun
    background = hurry.post("/runs", json=brisk(SLOW))
    outcome = hurry.get(f"{background.headers['content-location']}/join").json()

    assert waited.json()["__error__"]["code"] == "deadline_exceeded"
    assert 0.9 < took < 1.0 * SLACK
    assert outcome["__error__"]["code"] == "deadline_exceeded"
    assert hurry.get(background.headers["content-location"]).json()["status"] == "timeout"


@pytest.mark.parametrize(("path", "most"), [("/runs/wait", 1500), ("/runs/stream", 1500), ("/runs", 1200), ("/v1/chat/completions", 1500)])
def test_more_than_the_maximum_is_refused(hurry: httpx.Client, path: str, most: int) -> None:
    """422 with a code and the number that would do (400 in OpenAI's protocol); that number does."""
    body = {**CHAT, "messages": [{"role": "user", "content": "hello"}]} if path.startswith("/v1") else brisk("hello")
    refused = hurry.post(path, json=body, headers={"x-deadline-ms": str(most + 1)})
    accepted = hurry.post(path, json=body, headers={"x-deadline-ms": str(most)})

    if path.startswith("/v1"):
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "deadline_too_long")
    else:
        assert (refused.status_code, refused.json()["code"]) == (422, "deadline_too_long")
        assert f"at most {most}" in refused.json()["detail"]
    assert accepted.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"x-deadline-ms": value} for value in ("0", "-5", "1.5", "soon", "1e3", "5s", "")]
    + [{"x-priority": value} for value in ("urgent", "0", "Batch", "")],
    ids=str,
)
def test_nonsense_is_refused_and_nothing_is_run(http: httpx.Client, headers: dict[str, str]) -> None:
    """The header is named; a thread that was meant to be written to is as it was."""
    thread_id = new_thread(http)
    answers = [http.post(f"/threads/{thread_id}/runs{kind}", json=brisk("hello"), headers=headers) for kind in ("", "/wait", "/stream")]
    chat = http.post("/v1/chat/completions", json=CHAT, headers=headers)

    assert [answer.status_code for answer in answers] == [422] * 3
    assert {answer.json()["code"] for answer in answers} == {"invalid_input"}
    assert all(next(iter(headers)) in answer.json()["detail"] for answer in answers)
    assert (chat.status_code, chat.json()["error"]["type"]) == (400, "invalid_request_error")
    assert http.get(f"/threads/{thread_id}/runs").json() == []


def test_an_answer_to_an_interrupt_has_a_deadline_of_its_own(http: httpx.Client, ledger: Ledger) -> None:
    """The time that a human took to decide is not the run's."""
    thread = f"/threads/{new_thread(http)}/runs/wait"
    asked = http.post(thread, json=brisk("refund order 7"), headers={"x-deadline-ms": "2000"})
    answered = http.post(thread, json=resumes("yes"), headers={"x-deadline-ms": "3000"})

    assert "__interrupt__" in asked.json()
    assert [seconds(record(ledger, response)) for response in (asked, answered)] == [2.0, 3.0]


def test_what_works_for_the_run_works_within_its_deadline(start_service: StartService, start_provider: StartProvider) -> None:
    """With a provider that hangs, the supervisor's own clock runs out first: an honest lesser answer instead of an error."""
    provider = start_provider(lambda request: Reply(hangs=True))
    service = start_service(OPENAI_BASE_URL=provider.url)

    begun = time.monotonic()
    response = httpx.post(f"{service.url}/runs/wait", json=says("How do I change my PIN?"), headers={"x-deadline-ms": "2000"}, timeout=30)
    took = time.monotonic() - begun

    values = response.json()
    assert "__error__" not in values
    assert values["answer"]
    assert {step["why"] for step in values["degraded"]} == {"deadline_exceeded"}
    assert took < 2.0 * SLACK


# --- the priority -------------------------------------------------------------------------------------------------------


def test_the_priority_of_a_run_is_stored_with_it(http: httpx.Client, ledger: Ledger) -> None:
    """`interactive`, `default`, `batch`; wherever the run goes on it is as urgent."""
    stored = [
        record(ledger, http.post(path, json=brisk("hello"), headers={"x-priority": name}))
        for path in ("/runs/wait", "/runs")
        for name in ("interactive", "default", "batch")
    ]

    assert [priority(run) for run in stored] == [0, 1, 2, 0, 1, 2]


def test_runs_in_the_background_can_wait_unless_their_caller_says_otherwise(http: httpx.Client, ledger: Ledger) -> None:
    """`batch` is their default; somebody who waits or follows is `default`."""
    thread = f"/threads/{new_thread(http)}/runs"
    body = brisk("hello", multitask_strategy="enqueue")
    paths = ["/runs", thread, "/runs/wait", f"{thread}/wait", "/runs/stream", f"{thread}/stream"]

    assert [priority(record(ledger, http.post(path, json=body))) for path in paths] == [2, 2, 1, 1, 1, 1]
    chat = {**CHAT, "messages": [{"role": "user", "content": "hello"}]}
    assert priority(record(ledger, http.post("/v1/chat/completions", json=chat))) == 1
