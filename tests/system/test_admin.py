"""What operators can do, and that nobody else can."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.protocol import ask
from tests.support.service import Service
from tests.system.conftest import StartService

TOKEN, KEY = "token-of-the-operators", "key-of-acme"
BILLING = "specialist:billing_support"
QUESTION = "Why was I charged a fee for my transfer?"


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a token for operators and a tenant."""
    service = Service(tmp_path_factory.mktemp("operated"), ADMIN_TOKEN=TOKEN, API_KEYS=f"{KEY}:acme")
    try:
        yield service.start()
    finally:
        service.close()


@pytest.fixture
def operator(operated: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=operated.url, timeout=60, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        yield client


@pytest.fixture
def customer(operated: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=operated.url, timeout=60, headers={"x-api-key": KEY}) as client:
        yield client


def move(operator: httpx.Client, dependency: str, state: str) -> dict:
    found: dict = operator.post("/admin/breakers", json={"dependency": dependency, "state": state}).raise_for_status().json()
    return found


@pytest.fixture
def isolate(operator: httpx.Client) -> Iterator:
    """Isolates breakers; they are closed again after the test."""
    moved: list[str] = []

    def isolate(dependency: str) -> dict:
        moved.append(dependency)
        return move(operator, dependency, "isolated")

    yield isolate
    for dependency in moved:
        move(operator, dependency, "closed")


def test_every_breaker_is_listed_from_the_start(operator: httpx.Client) -> None:
    """Those of the model, of all specialists and of their tools, each with all that is known of it."""
    listed = operator.get("/admin/breakers").raise_for_status().json()

    names = [breaker["dependency"] for breaker in listed]
    specialists = [BILLING, "specialist:general_support", "specialist:technical_support"]
    assert {"model:offline/offline", "tool:find_order", *specialists} <= set(names)
    assert names == sorted(names)
    for breaker in listed:
        assert {name: breaker[name] for name in ("state", "by", "is_admitting", "retry_in", "reopenings")} == {
            "state": "closed",
            "by": "here",
            "is_admitting": True,
            "retry_in": 0,
            "reopenings": 0,
        }
        assert {"since", "why", "consecutive_failures", "recent_calls", "recent_failures", "recent_slow", "last_failure"} <= set(breaker)


def test_an_isolated_specialist_is_not_offered_and_the_answer_says_so(operator: httpx.Client, customer: httpx.Client, isolate) -> None:
    """Somebody else answers, or a human; `degraded` names who was out. Closed again, it answers as before."""
    before = ask(customer, QUESTION)
    assert (before["specialist"], before["degraded"]) == ("billing_support", [])

    moved = isolate(BILLING)
    assert (moved["state"], moved["by"], moved["is_admitting"], moved["is_fleet_wide"]) == ("isolated", "hand", False, True)
    during = ask(customer, QUESTION)
    assert during["specialist"] != "billing_support"
    assert during["answer"]
    assert during["degraded"] == [{"what": BILLING, "why": "circuit_open"}]

    moved = move(operator, BILLING, "closed")
    assert (moved["state"], moved["is_admitting"], moved["is_fleet_wide"]) == ("closed", True, True)
    after = ask(customer, QUESTION)
    assert (after["specialist"], after["degraded"]) == ("billing_support", [])


def test_an_isolation_outlives_the_service(start_service: StartService) -> None:
    """A restart does not let anybody through who was locked out; the metrics and the log tell of both moves."""
    service = start_service(ADMIN_TOKEN=TOKEN)
    headers = {"x-admin-token": TOKEN}
    with httpx.Client(base_url=service.url, timeout=60, headers=headers) as operator:
        move(operator, BILLING, "isolated")
        state = f'capataz_breaker_state{{dependency="{BILLING}",state="isolated"}} 1.0'
        assert state in operator.get("/metrics").text
        service.stop()
        service.start()

        (found,) = [one for one in operator.get("/admin/breakers").json() if one["dependency"] == BILLING]

        assert (found["state"], found["by"], found["why"]) == ("isolated", "fleet", "by_hand")
        moves = f'capataz_breaker_transitions_total{{by="fleet",dependency="{BILLING}",state="isolated"}} 1.0'
        assert moves in operator.get("/metrics").text
    assert service.log_text().count('"event": "breaker_moved"') == 2


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY},
        {"x-api-key": TOKEN},
        {"x-admin-token": "guess"},
        {"x-admin-token": f"{TOKEN}x"},
        {"x-admin-token": "\xe9".encode("latin-1")},
        {"authorization": f"Basic {TOKEN}"},
    ],
    ids=str,
)
def test_only_the_token_opens(operated: Service, headers: dict) -> None:
    """A tenant's key does not, wherever it is sent."""
    with httpx.Client(base_url=operated.url, timeout=60, headers=headers) as anybody:
        for answer in (
            anybody.get("/admin/breakers"),
            anybody.post("/admin/breakers", json={"dependency": BILLING, "state": "isolated"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
            assert answer.headers["content-type"] == "application/problem+json"


def test_the_token_opens_nothing_else(operated: Service) -> None:
    """An operator is no tenant."""
    answer = httpx.post(f"{operated.url}/threads", json={}, headers={"x-api-key": TOKEN})

    assert (answer.status_code, answer.json()["code"]) == (401, "api_key_unknown")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"dependency": "specialist:nobody", "state": "isolated"}, 404, "breaker_not_found"),
        ({"dependency": BILLING, "state": "open"}, 422, "invalid_input"),
        ({"state": "closed"}, 422, "invalid_input"),
        ([], 422, "invalid_input"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said(operator: httpx.Client, body: object, status: int, code: str) -> None:
    """Nothing moves."""
    answer = operator.post("/admin/breakers", json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert {breaker["state"] for breaker in operator.get("/admin/breakers").json()} == {"closed"}


def test_without_a_token_there_is_no_admin(offline_service: Service) -> None:
    """Every path and method below /admin answers as one that does not exist, whatever is sent; the document does not name it."""
    with httpx.Client(base_url=offline_service.url, timeout=60, headers={"x-admin-token": "", "authorization": "Bearer x"}) as anybody:

        def answer(method: str, path: str) -> tuple:
            response = anybody.request(method, path, json={"dependency": BILLING, "state": "isolated"})
            body = {name: value for name, value in response.json().items() if name != "request_id"}
            headers = {name for name in response.headers if name != "date"}
            return response.status_code, body, headers

        for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
            nowhere = answer(method, "/nowhere/breakers")
            assert nowhere[0] == 404
            assert answer(method, "/admin/breakers") == nowhere
            assert answer(method, "/admin") == nowhere
        assert "/admin" not in anybody.get("/openapi.json").text


def test_the_document_describes_the_routes(operator: httpx.Client) -> None:
    """By the names that generated clients use."""
    document = operator.get("/openapi.json").json()

    operations = document["paths"]["/admin/breakers"]
    assert {method: operation["operationId"] for method, operation in operations.items()} == {
        "get": "list_breakers",
        "post": "move_breaker",
    }
    assert set(operations["post"]["responses"]) == {"200", "401", "404", "413", "422"}
    assert operations["get"]["security"] == [{"AdminToken": []}, {"AdminBearer": []}]


def test_a_token_that_is_a_tenants_key_is_refused(start_service: StartService) -> None:
    """The service does not start, and says why without saying the token."""
    with pytest.raises(AssertionError, match="ended with 2") as caught:
        start_service(ADMIN_TOKEN=KEY, API_KEYS=f"{KEY}:acme")

    assert "ADMIN_TOKEN is also one of the API_KEYS" in str(caught.value)
    assert KEY not in str(caught.value)
