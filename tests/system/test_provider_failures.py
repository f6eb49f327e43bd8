"""A provider that is healthy, and one that is ill in every way we know: docs/failures.md, row by row."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.protocol import TERMINAL, Event, ask, new_thread, says, stream
from tests.support.provider import Provider, Reply, Request, concludes, is_routing, routes_to
from tests.support.service import Service, free_port
from tests.system.conftest import StartProvider, StartService

DOCUMENT = (Path(__file__).parents[2] / "docs" / "failures.md").read_text("utf-8")
SPECIALIST = "technical_support"
ANSWER = "Enter the wrong PIN three times and it is blocked."
FALLBACK_ANSWER = "The second model says this."
DEADLINE = 60.0


def throttled(retry_after: str) -> Reply:
    return Reply(status=429, code="rate_limit_exceeded", headers={"retry-after": retry_after})


ILLNESSES: dict[str, Reply] = {
    "answers 500": Reply(status=500),
    "answers 429 with Retry-After: 1": throttled("1"),
    "answers 429 with Retry-After: 3600": throttled("3600"),
    "answers 429 insufficient_quota": Reply(status=429, code="insufficient_quota"),
    "answers 401": Reply(status=401, code="invalid_api_key"),
    "hangs": Reply(hangs=True),
    "sends what is no completion": Reply(raw=b"<html>we will be back soon</html>"),
    "sends an empty answer": Reply(""),
    "reaches its token limit": Reply(ANSWER, finish="length"),
    "routes to nobody": routes_to("nobody"),
    "breaks off in mid-answer": Reply(ANSWER, cut_after=4),
    "breaks off before the first word": Reply(ANSWER, cut_after=0),
}


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    provider: str
    phase: str
    run: str
    requests: int
    why: str
    alone: str
    with_second: str

    def __str__(self) -> str:
        return f"{self.provider}, {self.phase}, {self.run}"


def table() -> list[Row]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCUMENT.splitlines() if line.count("|") == 8]
    return [Row(provider, phase, run, int(requests), *rest) for provider, phase, run, requests, *rest in cells[2:]]


def healthy(answer: str) -> Callable[[Request], Reply]:
    return lambda request: routes_to(SPECIALIST) if is_routing(request) else concludes(answer)


def ill(row: Row) -> Callable[[Request], Reply]:
    well = healthy(ANSWER)
    return lambda request: ILLNESSES[row.provider] if is_routing(request) is (row.phase == "routing") else well(request)


def run(service: Service, row: Row) -> tuple[dict[str, Any], float]:
    """The final values, and how long they took in seconds."""
    begun = time.monotonic()
    with httpx.Client(base_url=service.url, timeout=2 * DEADLINE) as http:
        if row.run == "waited":
            values = ask(http, "Is my PIN blocked?")
        else:
            body = {**says("Is my PIN blocked?"), "stream_mode": ["messages-tuple", "values"]}
            _, came = stream(http, f"/threads/{new_thread(http)}/runs/stream", body)
            assert [event.name for event in came if event.name in TERMINAL] == ["end"]
            values = [event for event in came if event.name == "values"][-1].data
    return values, time.monotonic() - begun


def asked(provider: Provider, row: Row) -> list[Request]:
    return [request for request in provider.requests if is_routing(request) is (row.phase == "routing")]


@dataclass(frozen=True)
class Patient:
    """A service and the provider it depends on."""

    service: Service
    provider: Provider

    def suffers(self, row: Row) -> tuple[dict[str, Any], float]:
        """What comes of the row's illness."""
        self.provider.requests.clear()
        self.provider.behaviour = ill(row)
        return run(self.service, row)

    def recovers(self) -> None:
        """Enough good turns to keep the breakers closed through the next row: fewer than half of the recent calls have failed."""
        self.provider.behaviour = healthy(ANSWER)
        with httpx.Client(base_url=self.service.url, timeout=DEADLINE) as http:
            assert [ask(http, "Is my PIN blocked?")["answer"] for _ in range(5)] == [ANSWER] * 5


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Patient]]:
    """Without and with a second model."""
    with ExitStack() as stack:
        providers = [stack.enter_context(Provider(healthy(answer)).serving()) for answer in (ANSWER, ANSWER, FALLBACK_ANSWER)]
        variables = [{}, {"MODEL_FALLBACK": "second", "FALLBACK_BASE_URL": providers[2].url}]
        found = []
        for provider, more in zip(providers, variables, strict=False):
            # A call that is slower than the many healthy ones before it would be made twice, and the table counts requests.
            service = Service(tmp_path_factory.mktemp("service"), OPENAI_BASE_URL=provider.url, RESILIENCE_OFF="hedge", **more)
            stack.callback(service.close)
            found.append(Patient(service.start(), provider))
        yield found


@pytest.mark.parametrize("row", [row for row in table() if row.provider in ILLNESSES], ids=str)
def test_the_table_of_provider_failures_is_true(row: Row, patients: list[Patient]) -> None:
    """Without a second model a human takes over and is told why; with one the customer is answered and told what was degraded."""
    with ThreadPoolExecutor() as pool:
        (values, seconds), (backed_values, backed_seconds) = pool.map(lambda patient: patient.suffers(row), patients)

    assert max(seconds, backed_seconds) < DEADLINE
    assert [len(asked(patient.provider, row)) for patient in patients] == [row.requests] * 2
    what = "routing" if row.phase == "routing" else f"specialist:{SPECIALIST}"
    degraded = [] if row.why == "-" else [{"what": what, "why": row.why}]
    assert_handed_over(values, row.alone, degraded)
    if row.with_second == "answered":
        assert backed_values["escalation"] is None
        assert backed_values["answer"] == (ANSWER if row.phase == "routing" else FALLBACK_ANSWER)
        assert backed_values["degraded"] == [{"what": model_at(patients[1].provider.url), "why": row.why}]
    else:
        assert_handed_over(backed_values, row.with_second, degraded)
    for patient in patients:
        patient.recovers()


def test_a_provider_that_refuses_connections_is_replaced_or_a_human_takes_over(
    start_service: StartService, start_provider: StartProvider
) -> None:
    """The row of the table in which nobody listens."""
    row = next(row for row in table() if row.provider == "refuses connections")
    nowhere, second = f"http://127.0.0.1:{free_port()}/v1", start_provider(healthy(FALLBACK_ANSWER))

    values, _ = run(start_service(OPENAI_BASE_URL=nowhere), row)
    assert_handed_over(values, row.alone, [{"what": "routing", "why": row.why}])

    values, _ = run(start_service(OPENAI_BASE_URL=nowhere, MODEL_FALLBACK="second", FALLBACK_BASE_URL=second.url), row)
    assert values["answer"] == FALLBACK_ANSWER
    assert {"what": model_at(nowhere), "why": row.why} in values["degraded"]


def assert_handed_over(values: dict[str, Any], reason: str, degraded: list[dict[str, str]]) -> None:
    assert values["escalation"]["reason"] == reason
    assert values["degraded"] == degraded
    assert "person on our team" in values["answer"]


def model_at(url: str) -> str:
    return f"model:{url.removeprefix('http://').removesuffix('/v1')}/gpt-4.1-mini"


def test_the_document_names_every_illness_that_the_stand_in_has() -> None:
    """No way to fail is known to the tests and not to the reader."""
    assert {row.provider for row in table()} == {*ILLNESSES, "refuses connections"}


def test_a_healthy_provider_is_asked_once_for_each_step(start_service: StartService, start_provider: StartProvider) -> None:
    """Routing asks for a JSON schema in one piece; the specialist is offered its tools, uses one, and streams its answer with usage."""

    def behaviour(request: Request) -> Reply:
        if is_routing(request):
            return routes_to(SPECIALIST)
        has_searched = any(message["role"] == "tool" for message in request["messages"])
        return concludes(ANSWER) if has_searched else Reply(calls=(("search_help_centre", {"query": "pin blocked"}),))

    provider = start_provider(behaviour)
    service = start_service(OPENAI_BASE_URL=provider.url, OPENAI_API_KEY="sk-test", MODEL_ROUTING="small", MODEL_REASONING="big")
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:
        body = {**says("Is my PIN blocked?"), "stream_mode": ["messages-tuple", "values"]}
        _, came = stream(http, f"/threads/{new_thread(http)}/runs/stream", body)

    routing, first, second = provider.requests
    assert [request["model"] for request in provider.requests] == ["small", "big", "big"]
    assert {request["_headers"]["authorization"] for request in provider.requests} == {"Bearer sk-test"}
    schema = routing["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert {SPECIALIST, "human"} <= {*schema["schema"]["properties"]["specialist"]["enum"]}
    assert not routing.get("stream")
    for request in (first, second):
        assert request["stream"] is True
        assert request["stream_options"] == {"include_usage": True}
        assert {"search_help_centre", "conclude", "hand_back", "call_human"} <= {tool["function"]["name"] for tool in request["tools"]}
    values = [event for event in came if event.name == "values"][-1].data
    assert values["answer"] == ANSWER
    assert values["specialist"] == SPECIALIST
    assert values["confidence"] == 0.9
    assert values["degraded"] == []
    assert values["usage"]["input_tokens"] > 0
    assert values["usage"]["output_tokens"] > 0
    assert _spoken(came, values["messages"][-1]["id"]) == ANSWER


def test_what_was_read_before_a_stream_broke_is_followed_by_the_hand_over(
    start_service: StartService, start_provider: StartProvider
) -> None:
    """The reader has half an answer, then one message that says who goes on; the conversation keeps only that one."""
    row = Row("breaks off in mid-answer", "answering", "streamed", 1, "", "", "")
    service = start_service(OPENAI_BASE_URL=start_provider(ill(row)).url)
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:
        body = {**says("Is my PIN blocked?"), "stream_mode": ["messages-tuple", "values"]}
        _, came = stream(http, f"/threads/{new_thread(http)}/runs/stream", body)

    values = [event for event in came if event.name == "values"][-1].data
    halves = {event.data[0]["id"] for event in came if event.name == "messages"} - {message["id"] for message in values["messages"]}
    assert len(halves) == 1
    half = _spoken(came, halves.pop())
    assert half
    assert ANSWER.startswith(half)
    assert _spoken(came, values["messages"][-1]["id"]) == values["answer"]


def test_a_throttled_provider_is_given_the_time_it_asks_for(start_service: StartService, start_provider: StartProvider) -> None:
    """`Retry-After` wins over our own wait, and the second try is good."""
    replies = itertools.chain([throttled("1")], itertools.repeat(concludes(ANSWER)))
    provider = start_provider(lambda request: routes_to(SPECIALIST) if is_routing(request) else next(replies))
    service = start_service(OPENAI_BASE_URL=provider.url)
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:
        values = ask(http, "Is my PIN blocked?")

    assert values["answer"] == ANSWER
    assert values["degraded"] == []
    _, refused, served = provider.requests
    assert served["_at"] - refused["_at"] >= 1.0


def test_a_dead_provider_is_left_alone_after_a_while(start_service: StartService, start_provider: StartProvider) -> None:
    """After five failures in a row its breaker is open: the customer is answered at once, and the provider is not asked."""
    provider = start_provider(lambda _: Reply(status=500))
    service = start_service(OPENAI_BASE_URL=provider.url)
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:
        outcomes = [ask(http, "Is my PIN blocked?") for _ in range(3)]

    assert len(provider.requests) == 5
    assert {values["escalation"]["reason"] for values in outcomes} == {"model_unavailable"}
    assert outcomes[-1]["degraded"] == [{"what": "routing", "why": "circuit_open"}]


def _spoken(came: list[Event], message_id: str) -> str:
    return "".join(event.data[0]["content"] for event in came if event.name == "messages" and event.data[0]["id"] == message_id)
