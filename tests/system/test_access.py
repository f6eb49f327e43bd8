"""Who may call, what each sees, and what a service refuses to start with."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from app.storage.redis.keys import BATCH_WORK, BREAKERS, DELAYED, LAPSING, OPEN, SWEPT, WORK
from tests.support.protocol import ask, new_thread, says, stream
from tests.support.service import Service
from tests.system.conftest import StartService

KEYS = {"acme": "key-of-acme", "globex": "key:of:globex"}
QUESTION = "What does a transfer cost?"


@pytest.fixture(scope="module")
def closed_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of two tenants."""
    service = Service(tmp_path_factory.mktemp("closed"), API_KEYS=",".join(f"{key}:{tenant}" for tenant, key in KEYS.items()))
    try:
        yield service.start()
    finally:
        service.close()


@pytest.fixture
def anybody(closed_service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=closed_service.url, timeout=60) as client:
        yield client


@pytest.fixture
def acme(closed_service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=closed_service.url, timeout=60, headers={"x-api-key": KEYS["acme"]}) as client:
        yield client


@pytest.fixture
def globex(closed_service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=closed_service.url, timeout=60, headers={"authorization": f"Bearer {KEYS['globex']}"}) as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "api_key_missing"),
        ({"x-api-key": "guess"}, "api_key_unknown"),
        ({"authorization": "Bearer guess"}, "api_key_unknown"),
        ({"authorization": "Basic a2V5"}, "api_key_missing"),
        ({"x-api-key": "key-of-acme:acme"}, "api_key_unknown"),
    ],
    ids=str,
)
def test_without_a_good_key_nothing_is_done(anybody: httpx.Client, headers: dict[str, str], code: str) -> None:
    """401 on every route of data, in the form of the route."""
    for method, path, body in [
        ("POST", "/threads", {}),
        ("GET", "/threads/3f0c9a44-6c0e-4b0a-9d52-0a3d2b6f3a11", None),
        ("POST", "/runs/wait", says(QUESTION)),
        ("POST", "/assistants/search", {}),
    ]:
        response = anybody.request(method, path, json=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, code)
        assert response.headers["content-type"] == "application/problem+json"
    chat = anybody.get("/v1/models", headers=headers)
    assert (chat.status_code, chat.json()["error"]["code"]) == (401, "invalid_api_key")


def test_who_looks_after_the_service_needs_no_key(anybody: httpx.Client) -> None:
    """Probes and scrapers have none."""
    for path in ("/ok", "/info", "/health/live", "/health/ready", "/metrics", "/openapi.json"):
        assert anybody.get(path).status_code == 200


def test_a_tenant_sees_its_own_and_never_the_other(acme: httpx.Client, globex: httpx.Client) -> None:
    """A foreign thread, run or stream is a 404, told in the words of one that does not exist; the id is free for the other."""
    thread_id = new_thread(acme)
    response, came = stream(acme, f"/threads/{thread_id}/runs/stream", says(QUESTION))
    run = response.headers["content-location"]

    assert acme.get(run).status_code == 200
    foreign = [
        globex.get(f"/threads/{thread_id}"),
        globex.get(f"/threads/{thread_id}/state"),
        globex.post(f"/threads/{thread_id}/history", json={}),
        globex.post(f"/threads/{thread_id}/runs/wait", json=says("mine")),
        globex.get(run),
        globex.get(f"{run}/stream", headers={"last-event-id": "-1"}),
    ]
    assert [answer.status_code for answer in foreign] == [404] * len(foreign)
    assert {answer.json()["code"] for answer in foreign} == {"thread_not_found", "run_not_found"}

    before = acme.get(f"/threads/{thread_id}").json()
    assert globex.post("/threads", json={"thread_id": thread_id}).status_code == 200
    assert ask(globex, "hello", thread_id)["messages"][0]["content"] == "hello"
    assert acme.get(f"/threads/{thread_id}").json() == before
    assert came[-1].name == "end"


def test_every_key_in_redis_begins_with_its_tenant(closed_service: Service, acme: httpx.Client, globex: httpx.Client) -> None:
    """So that no mistake in a key can cross tenants; what the processes share holds names of runs, never their content."""
    ask(acme, QUESTION)
    globex.post("/runs/wait", json=says(QUESTION))
    with Redis.from_url(closed_service.redis_url) as redis:
        names = {name.decode() for name in redis.scan_iter(count=1000)}

    assert names
    shared = {name for name in names if name.startswith(("capataz:", "{capataz:"))}
    assert shared <= {WORK, BATCH_WORK, OPEN, DELAYED, BREAKERS, LAPSING, SWEPT}
    assert {name.partition(":")[0] for name in names - shared} == set(KEYS)


def refused(service: Service) -> str:
    """What a service says that does not start."""
    service.launch()
    assert service.process.wait(60) == 2, service.log_text()
    text = service.log_text()
    assert text.startswith("capataz cannot start:\n")
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HOST": "0.0.0.0"}, ("HOST=0.0.0.0", "API_KEYS", "ALLOW_OPEN")),
        ({"PORT": "http"}, ("PORT",)),
        ({"PORT": "70000"}, ("PORT",)),
        ({"LOG_LEVEL": "loud"}, ("LOG_LEVEL",)),
        ({"REDIS_URL": "localhost:6379"}, ("REDIS_URL", "redis://")),
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, ("Redis",)),
        ({"API_KEYS": "only-a-key"}, ("API_KEYS", "key:tenant")),
        ({"API_KEYS": "secret-1:acme,secret-1:globex"}, ("API_KEYS", "entry 2")),
        ({"ALLOW_OPEN": "perhaps"}, ("ALLOW_OPEN",)),
        ({"RATE_LIMIT_RPM": "-1"}, ("RATE_LIMIT_RPM",)),
        ({"RATE_LIMIT_RPM": "many"}, ("RATE_LIMIT_RPM",)),
        ({"PROVIDER_LIMITS": "offline=5"}, ("PROVIDER_LIMITS", "offline=5", "500rpm")),
        ({"PROVIDER_LIMITS": "openai=5rpm"}, ("PROVIDER_LIMITS", "'openai'", "offline/offline")),
        ({"OPENAI_BASE_URL": "localhost:1234/v1"}, ("OPENAI_BASE_URL", "http://")),
        ({"MODEL_REASONING": "big"}, ("MODEL_REASONING", "OPENAI_API_KEY")),
        ({"OPENAI_API_KEY": "sk-x", "MODEL_NOBODY": "big"}, ("MODEL_NOBODY", "MODEL_ROUTING")),
        ({"OPENAI_API_KEY": "sk-x", "FALLBACK_BASE_URL": "http://x/v1"}, ("MODEL_FALLBACK",)),
        ({"LANGFUSE_PUBLIC_KEY": "pk-x"}, ("LANGFUSE_SECRET_KEY",)),
        ({"LANGFUSE_BASE_URL": "http://x"}, ("LANGFUSE_PUBLIC_KEY",)),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_and_the_service_does_not_start(
    variables: dict[str, str], words: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Exit code 2, the variable's name and what to set, and no secret."""
    text = refused(Service(tmp_path_factory.mktemp("refused"), **variables))

    for word in words:
        assert word in text
    assert "secret-1" not in text
    assert "sk-x" not in text


def test_an_open_service_can_be_wanted(start_service: StartService) -> None:
    """`ALLOW_OPEN` says so."""
    service = start_service(HOST="0.0.0.0", ALLOW_OPEN="true")

    assert httpx.post(f"{service.url}/threads", json={}).status_code == 200


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key"}


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:5173", True),
        ("https://example.com", False),
        ("http://localhost.example.com", False),
    ],
)
def test_a_service_without_keys_is_open_to_pages_of_this_machine_only(http: httpx.Client, origin: str, is_allowed: bool) -> None:
    """Or every page that its user visits could talk to it."""
    answer = http.post("/threads", json={}, headers={"origin": origin})
    preflight = http.options("/threads", headers={"origin": origin, **PREFLIGHT})

    assert (answer.headers.get("access-control-allow-origin") == origin) is is_allowed
    assert (preflight.status_code == 200) is is_allowed


def test_a_service_with_keys_is_open_to_every_page_that_has_one(anybody: httpx.Client) -> None:
    """And shows it the headers by which clients come back."""
    headers = {"origin": "https://example.com"}
    preflight = anybody.options("/runs/stream", headers={**headers, **PREFLIGHT})
    answer = anybody.post("/runs/wait", json=says(QUESTION), headers={**headers, "x-api-key": KEYS["acme"]})
    refusal = anybody.post("/runs/wait", json=says(QUESTION), headers=headers)

    assert preflight.status_code == 200
    assert {"access-control-allow-origin": "*"}.items() <= dict(preflight.headers).items()
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {"content-location", "location", "x-pagination-next", "x-pagination-total"} <= exposed
    assert refusal.headers["access-control-allow-origin"] == "*"
