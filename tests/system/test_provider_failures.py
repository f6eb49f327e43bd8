"""A provider that is healthy, and one that is ill in every way we know: docs/failures.md, row by row."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
COVERED, UNCOVERED = "Is my PIN blocked?", "Why does the app look purple on my watch?"
EXCUSE = "Our assistant is not available right now."
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
    "sends arguments that are no JSON": Reply(calls=(("conclude", b"half of it"),)),
    "sends an empty answer": Reply(""),
    "reaches its token limit": Reply(ANSWER, finish="length"),
    "refuses to answer": Reply(ANSWER, finish="content_filter"),
    "routes to nobody": routes_to("nobody"),
    "breaks off in mid-answer": Reply(ANSWER, cut_after=4),
    "breaks off before the first word": Reply(ANSWER, cut_after=0),
}


@dataclass(frozen=True)
class Row:
    """One row of the table; what differs with a second model stands behind a slash in its cell."""

    provider: str
    phase: str
    run: str
    requests: str = "1"
    why: str = ""
    covered: str = ""
    uncovered: str = ""
    with_second: str = ""

    def __str__(self) -> str:
        return f"{self.provider}, {self.phase}, {self.run}"

    def beside(self, *, has_second: bool) -> Row:
        """The row as it is without a second model, or with one."""
        which = -1 if has_second else 0
        return replace(self, requests=self.requests.split(" / ")[which], why=self.why.split(" / ")[which])


def table() -> list[Row]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCUMENT.splitlines() if line.count("|") == 9]
    return [Row(*row) for row in cells[2:]]


def healthy(answer: str) -> Callable[[Request], Reply]:
    return lambda request: routes_to(SPECIALIST) if is_routing(request) else concludes(answer)


def ill(row: Row) -> Callable[[Request], Reply]:
    well = healthy(ANSWER)
    return lambda request: ILLNESSES[row.provider] if is_routing(request) is (row.phase == "routing") else well(request)


def run(service: Service, row: Row, question: str = COVERED) -> tuple[dict[str, Any], float]:
    """The final values, and how long they took in seconds."""
    begun = time.monotonic()
    with httpx.Client(base_url=service.url, timeout=2 * DEADLINE) as http:
        if row.run == "waited":
            values = ask(http, question)
        else:
            body = {**says(question), "stream_mode": ["messages-tuple", "values"]}
            _, came = stream(http, f"/threads/{new_thread(http)}/runs/stream", body)
            assert [event.name for event in came if event.name in TERMINAL] == ["end"]
            values = [event for event in came if event.name == "values"][-1].data
    return values, time.monotonic() - begun


def asked(provider: Provider, row: Row) -> list[Request]:
    return [request for request in provider.requests if is_routing(request) is (row.phase == "routing")]


@dataclass(frozen=True)
class Patient:
    """A service and the provider it depends on, and what it is asked."""

    service: Service
    provider: Provider
    question: str

    def suffers(self, row: Row) -> tuple[dict[str, Any], float]:
        """What comes of the row's illness."""
        self.provider.requests.clear()
        self.provider.behaviour = ill(row)
        return run(self.service, row, self.question)

    def recovers(self) -> None:
        """Enough good turns to keep the breakers closed through the next row: fewer than half of the recent calls have failed."""
        self.provider.behaviour = healthy(ANSWER)
        with httpx.Client(base_url=self.service.url, timeout=DEADLINE) as http:
            assert [ask(http, self.question)["answer"] for _ in range(5)] == [ANSWER] * 5


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Patient]]:
    """Without a second model, asked what the help centre covers and what it does not; and with one."""
    with ExitStack() as stack:
        second = stack.enter_context(Provider(healthy(FALLBACK_ANSWER)).serving())
        found = []
        for question, more in (
            (COVERED, {}),
            (UNCOVERED, {}),
            (COVERED, {"MODEL_FALLBACK": "second", "FALLBACK_BASE_URL": second.url}),
        ):
            provider = stack.enter_context(Provider(healthy(ANSWER)).serving())
            # A call that is slower than the many healthy ones before it would be made twice, and the table counts requests.
            service = Service(tmp_path_factory.mktemp("service"), OPENAI_BASE_URL=provider.url, RESILIENCE_OFF="hedge", **more)
            stack.callback(service.close)
            found.append(Patient(service.start(), provider, question))
        yield found


@pytest.mark.parametrize("row", [row for row in table() if row.provider in ILLNESSES], ids=str)
def test_the_table_of_provider_failures_is_true(row: Row, patients: list[Patient]) -> None:
    """The customer is answered by the next in the chain and told what was degraded, or a human takes over and is told why."""
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda patient: patient.suffers(row), patients))

    assert max(seconds for _, seconds in outcomes) < DEADLINE
    for patient, (values, _), expected in zip(patients, outcomes, (row.covered, row.uncovered, row.with_second), strict=True):
        found = row.beside(has_second=patient is patients[-1])
        assert len(asked(patient.provider, row)) == int(found.requests)
        is_backed = patient is patients[-1] and expected == "answered"
        assert_became(values, expected, FALLBACK_ANSWER if is_backed and row.phase == "answering" else ANSWER)
        assert values["degraded"] == degraded(found, expected, patient.provider.url, is_backed=is_backed)
    with ThreadPoolExecutor() as pool:
        list(pool.map(Patient.recovers, patients))


def test_a_provider_that_refuses_connections_is_replaced_or_a_human_takes_over(
    start_service: StartService, start_provider: StartProvider
) -> None:
    """The row of the table in which nobody listens: rules route, and then the specialist's model is out too."""
    row = next(row for row in table() if row.provider == "refuses connections")
    nowhere, second = f"http://127.0.0.1:{free_port()}/v1", start_provider(healthy(FALLBACK_ANSWER))
    alone = start_service(OPENAI_BASE_URL=nowhere)

    covered, _ = run(alone, row, COVERED)
    uncovered, _ = run(alone, row, UNCOVERED)
    assert_became(covered, row.covered)
    assert_became(uncovered, row.uncovered)
    assert {"what": model_at(nowhere), "why": row.why} in covered["degraded"]
    assert {"what": "routing_by_rules", "why": row.why} in covered["degraded"]

    values, _ = run(start_service(OPENAI_BASE_URL=nowhere, MODEL_FALLBACK="second", FALLBACK_BASE_URL=second.url), row)
    assert_became(values, row.with_second, FALLBACK_ANSWER)
    assert {"what": model_at(nowhere), "why": row.why} in values["degraded"]


def assert_became(values: dict[str, Any], expected: str, answer: str = ANSWER) -> None:
    if expected == "answered":
        assert (values["answer"], values["escalation"]) == (answer, None)
    elif expected == "help centre":
        assert values["escalation"] is None
        assert values["answer"].startswith(EXCUSE)
        assert values["sources"] == ["pin-blocked"]
    else:
        assert values["escalation"]["reason"] == expected
        assert "person on our team" in values["answer"]


def degraded(row: Row, expected: str, url: str, *, is_backed: bool) -> list[dict[str, str]]:
    """What the result must say that was degraded."""
    if is_backed:
        whats = [model_at(url)]
    elif row.phase == "routing":
        whats = [model_at(url), "routing_by_rules"]
    else:
        whats = [f"specialist:{SPECIALIST}", *(["help_centre_answer"] if expected == "help centre" else [])]
    return [{"what": what, "why": row.why} for what in whats]


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


def test_only_who_reads_tokens_pays_for_a_stream(start_service: StartService, start_provider: StartProvider) -> None:
    """A run that is waited for, or of which only states are shown, asks for whole answers; the routing decision is always whole."""
    provider = start_provider(healthy(ANSWER))
    service = start_service(OPENAI_BASE_URL=provider.url)
    chat = {"model": "supervisor", "messages": [{"role": "user", "content": COVERED}]}
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:

        def asks_for_a_stream(path: str, body: dict[str, Any]) -> bool:
            provider.requests.clear()
            http.post(path, json=body).raise_for_status()
            assert not any(request.get("stream") for request in provider.requests if is_routing(request))
            return any(request.get("stream") for request in provider.requests)

        assert not asks_for_a_stream("/runs/wait", says(COVERED))
        assert not asks_for_a_stream("/runs/stream", {**says(COVERED), "stream_mode": ["values", "updates"]})
        assert not asks_for_a_stream("/v1/chat/completions", chat)
        for mode in ("messages", "messages-tuple"):
            assert asks_for_a_stream("/runs/stream", {**says(COVERED), "stream_mode": ["values", mode]})
        assert asks_for_a_stream("/v1/chat/completions", {**chat, "stream": True})


@pytest.mark.parametrize(("question", "expected"), [(COVERED, "help centre"), (UNCOVERED, "specialist_unreachable")])
def test_what_was_read_before_a_stream_broke_is_followed_by_a_message_of_its_own(
    start_service: StartService, start_provider: StartProvider, question: str, expected: str
) -> None:
    """The reader has half an answer, then the help centre's or the hand-over; the conversation keeps only that one."""
    row = Row("breaks off in mid-answer", "answering", "streamed")
    service = start_service(OPENAI_BASE_URL=start_provider(ill(row)).url)
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:
        body = {**says(question), "stream_mode": ["messages-tuple", "values"]}
        _, came = stream(http, f"/threads/{new_thread(http)}/runs/stream", body)

    values = [event for event in came if event.name == "values"][-1].data
    assert_became(values, expected)
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
        outcomes = [ask(http, COVERED) for _ in range(3)]

    assert len(provider.requests) == 5
    for values in outcomes:
        assert_became(values, "help centre")
    whats = [model_at(provider.url), "routing_by_rules", f"specialist:{SPECIALIST}", "help_centre_answer"]
    assert outcomes[-1]["degraded"] == [{"what": what, "why": "circuit_open"} for what in whats]


def test_a_repaired_answer_is_as_good_as_any(start_service: StartService, start_provider: StartProvider) -> None:
    """Routing and answering both come out wrong the first time: the fault is in the second question, and nothing is degraded."""

    def behaviour(request: Request) -> Reply:
        is_repair = "Your answer was not usable" in str(request["messages"][-1]["content"])
        if is_routing(request):
            return routes_to(SPECIALIST) if is_repair else routes_to("nobody")
        return concludes(ANSWER) if is_repair else Reply(calls=(("conclude", b"half of it"),))

    provider = start_provider(behaviour)
    service = start_service(OPENAI_BASE_URL=provider.url)
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:
        values = ask(http, COVERED)
        page = http.get("/metrics").text

    assert (values["answer"], values["degraded"]) == (ANSWER, [])
    routing, again, first, second = provider.requests
    assert "specialist 'nobody' is none of" in again["messages"][-1]["content"]
    assert "the arguments of conclude are not JSON" in second["messages"][-1]["content"]
    assert (len(again["messages"]), len(second["messages"])) == (len(routing["messages"]) + 1, len(first["messages"]) + 1)
    assert re.search(r'kind="output_repaired"\} 2\.0$', page, re.MULTILINE)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_same_question_gets_the_answer_that_was_given_before(
    start_service: StartService, start_provider: StartProvider, *, is_streamed: bool
) -> None:
    """An answer that rests on the help centre is given again to another customer of the same kind while the provider is out."""

    def behaviour(request: Request) -> Reply:
        if is_routing(request):
            return routes_to(SPECIALIST)
        if is_out:
            return Reply(status=500)
        has_searched = any(message["role"] == "tool" for message in request["messages"])
        return concludes(ANSWER) if has_searched else Reply(calls=(("search_help_centre", {"query": "pin blocked"}),))

    is_out = False
    service = start_service(OPENAI_BASE_URL=start_provider(behaviour).url)
    row = Row("answers 500", "answering", "streamed" if is_streamed else "waited")
    assert run(service, row, UNCOVERED)[0]["degraded"] == []
    until_kept(service)
    is_out = True

    again, _ = run(service, row, UNCOVERED.upper())
    other, _ = run(service, row, f"{UNCOVERED} Or on my phone?")

    assert_became(again, "answered")
    assert [entry["what"] for entry in again["degraded"]] == [f"specialist:{SPECIALIST}", "cached_answer"]
    assert_became(other, "specialist_unreachable")


def until_kept(service: Service) -> None:
    """Wait until an answer has been kept; it is written behind the request."""
    give_up = time.monotonic() + DEADLINE
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:
        while 'capataz_cached_answers_total{outcome="kept"} 1.0' not in http.get("/metrics").text:
            assert time.monotonic() < give_up, "the answer was not kept"


def test_with_the_chain_switched_off_a_failure_is_a_matter_for_a_human(start_service: StartService, start_provider: StartProvider) -> None:
    """No second model, no rules, no help centre."""
    second = start_provider(healthy(FALLBACK_ANSWER))
    service = start_service(
        OPENAI_BASE_URL=start_provider(lambda _: Reply(status=401)).url,
        MODEL_FALLBACK="second",
        FALLBACK_BASE_URL=second.url,
        RESILIENCE_OFF="fallback",
    )
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:
        values = ask(http, COVERED)

    assert_became(values, "model_unavailable")
    assert values["degraded"] == [{"what": "routing", "why": "model_rejected_request"}]
    assert second.requests == []


def _spoken(came: list[Event], message_id: str) -> str:
    return "".join(event.data[0]["content"] for event in came if event.name == "messages" and event.data[0]["id"] == message_id)
