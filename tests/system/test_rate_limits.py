"""How many runs one API key may ask for, and how many calls a provider gets: over HTTP, as callers and providers see it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import RateLimitError

from tests.support.fleet import Fleet
from tests.support.protocol import GRAPH, ask, new_thread, says, some_id
from tests.support.provider import Provider, Reply, Request, concludes, is_routing, routes_to
from tests.support.redis_server import RedisServer, short_directory
from tests.support.service import Service
from tests.system.conftest import StartProvider, StartService

PER_MINUTE = 60
KEYS = [f"key-{n}" for n in range(12)]
QUESTION = "What does a transfer cost?"
_LEFT = re.compile(r'"default";r=(\d+);t=(\d+)')


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A tenant with many keys, each with a run per second."""
    service = Service(tmp_path_factory.mktemp("limited"), API_KEYS=",".join(f"{key}:acme" for key in KEYS), RATE_LIMIT_RPM=str(PER_MINUTE))
    try:
        yield service.start()
    finally:
        service.close()


_fresh = iter(KEYS)


@pytest.fixture
def key() -> str:
    """A key that no other test has used."""
    return next(_fresh)


@pytest.fixture
def caller(limited: Service, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=limited.url, timeout=60, headers={"x-api-key": key}) as client:
        yield client


def left(response: httpx.Response) -> tuple[int, int]:
    """What the answer says is left: runs, and seconds until all of them are there."""
    found = _LEFT.fullmatch(response.headers["ratelimit"])
    assert found, response.headers["ratelimit"]
    return int(found[1]), int(found[2])


def knock(http: httpx.Client) -> httpx.Response:
    """The cheapest request that counts: a run on a thread that does not exist."""
    return http.post(f"/threads/{some_id()}/runs", json=says(QUESTION))


def use_up(http: httpx.Client) -> tuple[int, httpx.Response]:
    """How many requests were served before the first refusal, and that."""
    for served in count():
        assert served < 3 * PER_MINUTE, "nothing is ever refused"
        if (response := knock(http)).status_code == 429:
            return served, response
    raise AssertionError


def a_few_times(request: Callable[[], object]) -> None:
    """More requests than can come back to an allowance while a slow machine makes them."""
    for _ in range(20):
        request()


def test_every_route_that_creates_runs_says_what_is_left(caller: httpx.Client) -> None:
    """Waited for, streamed, in the background, with and without a thread, in OpenAI's protocol: one allowance for all of them."""
    thread = f"/threads/{new_thread(caller)}"
    body = {**says(QUESTION), "multitask_strategy": "enqueue"}
    chat = {"model": GRAPH, "messages": [{"role": "user", "content": QUESTION}]}
    requests: list[tuple[str, dict[str, Any]]] = [
        *((f"{prefix}/runs{kind}", body) for prefix in (thread, "") for kind in ("", "/wait", "/stream")),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True}),
    ]

    begun = time.monotonic()
    answers = [caller.post(path, json=body) for path, body in requests]
    came_back = math.ceil(time.monotonic() - begun)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {f'"default";q={PER_MINUTE};w=60'}
    runs = [left(answer)[0] for answer in answers]
    assert runs[0] == PER_MINUTE - 1
    assert PER_MINUTE - 8 <= runs[-1] <= PER_MINUTE - 8 + came_back
    assert all(abs(PER_MINUTE - runs - seconds) <= 1 for runs, seconds in map(left, answers))


def test_what_starts_no_run_costs_nothing_and_says_nothing(caller: httpx.Client) -> None:
    """Reading, making threads, and requests that are malformed; a run that is refused for another reason counts."""
    thread_id = new_thread(caller)
    free = [
        caller.get(f"/threads/{thread_id}"),
        caller.get(f"/threads/{thread_id}/runs"),
        caller.post("/threads", json={}),
        caller.get("/v1/models"),
        caller.post("/runs/wait", json={"assistant_id": 7}),
        caller.post("/runs/wait", content="{"),
    ]
    assert all("ratelimit" not in answer.headers for answer in free)

    refused = knock(caller)
    assert (refused.status_code, left(refused)) == (404, (PER_MINUTE - 1, 1))


def test_over_the_allowance_is_429_until_retry_after(caller: httpx.Client) -> None:
    """As many at once as per minute, then a refusal that says when, in words and in both headers; who obeys is served."""
    served, refused = use_up(caller)
    assert served >= PER_MINUTE
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
    problem = refused.json()
    assert (problem["code"], problem["status"], problem["title"]) == ("rate_limited", 429, "Too Many Requests")
    assert f"{PER_MINUTE} runs per minute" in problem["detail"]
    retry_after = int(refused.headers["retry-after"])
    assert retry_after == 1
    assert left(refused) == (0, retry_after)

    time.sleep(retry_after)  # what the answer told us to do
    assert knock(caller).status_code == 404


def test_the_same_request_again_counts_again(caller: httpx.Client) -> None:
    """An idempotent repeat is the same run, but another request."""
    answers = [caller.post("/runs", json=says(QUESTION), headers={"idempotency-key": "once"}) for _ in range(2)]

    assert answers[0].json() == answers[1].json() or answers[0].json()["run_id"] == answers[1].json()["run_id"]
    assert left(answers[1])[0] < left(answers[0])[0]


def test_each_key_has_its_own_allowance(limited: Service, caller: httpx.Client) -> None:
    """Also a second key of the same tenant; how one caller behaves costs another nothing."""
    use_up(caller)

    with httpx.Client(base_url=limited.url, headers={"authorization": f"Bearer {next(_fresh)}"}) as neighbour:
        assert left(knock(neighbour)) == (PER_MINUTE - 1, 1)


def test_openais_routes_refuse_in_openais_words(limited: Service, caller: httpx.Client, key: str) -> None:
    """The client's own error, with its code; the client knows from Retry-After when to come back."""
    with openai.OpenAI(base_url=f"{limited.url}/v1", api_key=key, max_retries=0) as client:
        use_up(caller)
        with pytest.raises(openai.RateLimitError) as refused:
            a_few_times(lambda: client.chat.completions.create(model=GRAPH, messages=[{"role": "user", "content": QUESTION}]))
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert f"{PER_MINUTE} runs per minute" in str(refused.value)
    assert int(refused.value.response.headers["retry-after"]) == 1
    assert left(refused.value.response)[0] == 0


def test_langgraphs_sdk_tells_why(limited: Service, caller: httpx.Client, key: str) -> None:
    """Our words are in its own error for 429, and in the plain one that its `wait` and `stream` raise."""
    with get_sync_client(url=limited.url, api_key=key) as client:
        use_up(caller)
        with pytest.raises(RateLimitError) as refused:
            a_few_times(lambda: client.runs.create(None, GRAPH, input=says(QUESTION)["input"]))
        with pytest.raises(httpx.HTTPStatusError) as refused_too:
            a_few_times(lambda: client.runs.wait(None, GRAPH, input=says(QUESTION)["input"]))

    assert (refused.value.code, refused.value.response.headers["retry-after"]) == ("rate_limited", "1")
    words = f"{PER_MINUTE} runs per minute"
    assert words in str(refused.value)
    assert words in "".join(refused_too.value.__notes__)


def test_pages_may_read_the_fields(caller: httpx.Client) -> None:
    """CORS exposes them, and lets a page send the headers that runs can have."""
    page = {"origin": "https://example.com"}
    asked = "content-type,x-api-key,x-deadline-ms,x-priority,idempotency-key"
    preflight = caller.options(
        "/runs/wait", headers={**page, "access-control-request-method": "POST", "access-control-request-headers": asked}
    )
    answer = caller.post(f"/threads/{some_id()}/runs", json=says(QUESTION), headers=page)

    assert preflight.status_code == 200
    assert set(asked.split(",")) <= {name.strip().lower() for name in preflight.headers["access-control-allow-headers"].split(",")}
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {"ratelimit", "ratelimit-policy", "retry-after"} <= exposed


def test_the_interface_document_has_the_refusal_and_the_fields(caller: httpx.Client) -> None:
    """On the routes that start runs, and on no other."""
    document = caller.get("/openapi.json").json()
    limited = {
        (path, method): operation["responses"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "429" in operation["responses"]
    }

    prefixes = ("/threads/{thread_id}/runs", "/runs")
    runs = {prefix + kind for prefix in prefixes for kind in ("", "/wait", "/stream")}
    assert {path for path, _ in limited} == runs | {"/runs/batch", "/threads/{thread_id}/commands", "/v1/chat/completions"}
    for responses in limited.values():
        assert {"RateLimit", "RateLimit-Policy"} <= set(responses["200"]["headers"])
        refusal = document["components"]["responses"][responses["429"]["$ref"].rpartition("/")[2]]
        assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= set(refusal["headers"])


def test_decisions_are_counted(limited: Service, caller: httpx.Client) -> None:
    """By outcome, and whether Redis made them; never by key or tenant."""
    use_up(caller)

    lines = httpx.get(f"{limited.url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("capataz_rate_limits_total")]
    assert any('buckets="shared",limit="api_key",outcome="refused"' in line for line in found), found
    assert any('buckets="shared",limit="api_key",outcome="allowed"' in line for line in found)
    assert "acme" not in "".join(found)


def test_on_this_machine_without_keys_there_is_no_limit(http: httpx.Client) -> None:
    """What `make run` serves."""
    assert "ratelimit" not in knock(http).headers


@pytest.mark.parametrize(
    ("variables", "policy"),
    [
        ({"API_KEYS": "a-key:acme"}, '"default";q=100;w=60'),
        ({"API_KEYS": "a-key:acme", "RATE_LIMIT_RPM": "0"}, None),
        ({"API_KEYS": "a-key:acme", "RESILIENCE_OFF": "rate_limit"}, None),
        ({"RATE_LIMIT_RPM": "7"}, '"default";q=7;w=60'),
        ({"HOST": "0.0.0.0", "ALLOW_OPEN": "true"}, '"default";q=100;w=60'),
    ],
    ids=str,
)
def test_whether_there_is_a_limit(start_service: StartService, variables: dict[str, str], policy: str | None) -> None:
    """A hundred per key by default; 0 is none; who sets it without keys has one for all callers together."""
    service = start_service(**variables)

    with httpx.Client(base_url=service.url, headers={"x-api-key": "a-key"}) as http:
        assert knock(http).headers.get("ratelimit-policy") == policy


def test_all_processes_share_the_allowance(tmp_path: Path) -> None:
    """What one gateway has served the other counts."""
    fleet = Fleet(tmp_path, None, RATE_LIMIT_RPM="10", API_KEYS="a-key:acme")
    try:
        gateways = [fleet.gateway() for _ in range(2)]
        one, other = (httpx.Client(base_url=gateway.url, headers={"x-api-key": "a-key"}) for gateway in gateways)
        begun = time.monotonic()
        with one, other:
            statuses = [knock((one, other)[n % 2]).status_code for n in range(30)]
        came_back = math.ceil((time.monotonic() - begun) / 6)
    finally:
        fleet.close()

    assert 10 <= statuses.count(404) <= 10 + came_back
    assert statuses.count(429) == 30 - statuses.count(404)


def test_without_redis_the_limit_still_holds(start_service: StartService) -> None:
    """The runs cannot be accepted, but who asks too often is told so and not let through to be told that."""
    with short_directory() as directory, RedisServer(directory) as server:
        service = start_service(REDIS_URL=server.url, API_KEYS="a-key:acme", RATE_LIMIT_RPM="5")
        with httpx.Client(base_url=service.url, headers={"x-api-key": "a-key"}, timeout=30) as http:
            server.kill()
            answers = [http.post("/runs/wait", json=says(QUESTION)) for _ in range(8)]

    assert [answer.status_code for answer in answers] == [503] * 5 + [429] * 3
    assert all("ratelimit" in answer.headers and "retry-after" in answer.headers for answer in answers)


# --- providers ----------------------------------------------------------------------------------------------------------

FIRST, SECOND = "The first model says this.", "The second model says this."


def both_models(request: Request) -> Reply:
    """Healthy; the answer tells which model gave it."""
    if is_routing(request):
        return routes_to("technical_support")
    return concludes(FIRST if request["model"] == "main" else SECOND)


def served_by(provider: Provider, model: str) -> int:
    return sum(request["model"] == model for request in provider.requests)


def configured(provider: Provider, limits: str) -> dict[str, str]:
    """Two models at the provider; the limits speak of it as P."""
    host = provider.url.removeprefix("http://").removesuffix("/v1")
    models = {"MODEL_ROUTING": "main", "MODEL_REASONING": "main", "MODEL_FALLBACK": "other"}
    return {"OPENAI_BASE_URL": provider.url, "PROVIDER_LIMITS": limits.replace("P", host), **models}


def test_a_model_without_allowance_is_not_asked_and_the_next_one_answers(
    start_service: StartService, start_provider: StartProvider
) -> None:
    """Two calls per minute are one message; the next goes to the second model at once, and the answer says why."""
    provider = start_provider(both_models)
    service = start_service(**configured(provider, "P/main=2rpm"))

    with httpx.Client(base_url=service.url, timeout=60) as http:
        first, second = ask(http, "How do I change my PIN?"), ask(http, "How do I change my PIN?")
        metrics = http.get("/metrics").text

    assert (first["answer"], second["answer"]) == (FIRST, SECOND)
    assert first["degraded"] == []
    assert {step["why"] for step in second["degraded"]} == {"rate_limited"}
    assert (served_by(provider, "main"), served_by(provider, "other")) == (2, 2)
    assert re.search(r'capataz_rate_limits_total\{buckets="shared",limit="model:[^"]*/main",outcome="refused"\} 2.0', metrics)
    assert re.search(r'capataz_breaker_state\{dependency="model:[^"]*/main",state="open"\} 1', metrics) is None


def test_tokens_count_as_the_provider_counts_them(start_service: StartService, start_provider: StartProvider) -> None:
    """An answer of tens of thousands of tokens uses up two minutes, although its prompt was short."""
    long = FIRST + " word" * 40_000

    def verbose(request: Request) -> Reply:
        return routes_to("technical_support") if is_routing(request) else concludes(long if request["model"] == "main" else SECOND)

    provider = start_provider(verbose)
    service = start_service(**configured(provider, "P/main=25000tpm"))

    with httpx.Client(base_url=service.url, timeout=60) as http:
        first, second = ask(http, "How do I change my PIN?"), ask(http, "How do I change my PIN?")

    assert first["answer"].startswith(FIRST)
    assert second["answer"] == SECOND
    assert {step["why"] for step in second["degraded"]} == {"rate_limited"}


def test_a_429_of_the_provider_is_believed(start_service: StartService, start_provider: StartProvider) -> None:
    """A model that says "in a minute" is not asked again, neither by this run nor by the next; without a limit it was asked each time."""

    def busy(request: Request) -> Reply:
        return Reply(status=429, headers={"retry-after": "60"}) if request["model"] == "main" else both_models(request)

    provider = start_provider(busy)
    service = start_service(**configured(provider, "P/main=600rpm"))

    with httpx.Client(base_url=service.url, timeout=60) as http:
        answers = [ask(http, "How do I change my PIN?") for _ in range(3)]

    assert [values["answer"] for values in answers] == [SECOND] * 3
    assert served_by(provider, "main") == 1


def test_a_limit_of_the_provider_is_one_for_all_its_models(start_service: StartService, start_provider: StartProvider) -> None:
    """When it is used up no model of it is asked, and a human takes over, honestly."""
    provider = start_provider(both_models)
    service = start_service(**configured(provider, "P=2rpm"))

    with httpx.Client(base_url=service.url, timeout=60) as http:
        first, second = ask(http, "How do I change my PIN?"), ask(http, "Why does the app look purple on my watch?")

    assert first["answer"] == FIRST
    assert second["escalation"] is not None
    assert "rate_limited" in {step["why"] for step in second["degraded"]}
    assert len(provider.requests) == 2
