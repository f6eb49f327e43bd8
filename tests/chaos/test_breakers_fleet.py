"""A provider fails: who has learned it tells everybody within a second, and when it is well again it is not run over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx

from tests.chaos.conftest import PATIENT
from tests.support.fleet import Member, wait_until
from tests.support.protocol import ask
from tests.support.provider import Provider, Reply, Request, concludes, is_routing, routes_to

TOKEN = {"x-admin-token": "token-of-the-operators"}
BILLING = "specialist:billing_support"
QUESTION = "How do I change my password?"
PROBES = 3
CUSTOMERS = 40


def healthy(request: Request) -> Reply:
    return routes_to("general_support") if is_routing(request) else concludes("In the app, under Security.")


def breakers(member: Member) -> dict[str, dict]:
    found = httpx.get(f"{member.url}/admin/breakers", headers=TOKEN, timeout=10).raise_for_status().json()
    return {breaker["dependency"]: breaker for breaker in found}


def model_state(member: Member) -> str:
    (state,) = {breaker["state"] for name, breaker in breakers(member).items() if name.startswith("model:127.0.0.1:")}
    return str(state)


def asked(members: list[Member], times: int) -> list[Callable[[], dict]]:
    """Questions to these members in turn, to be asked by threads."""

    def question(member: Member) -> dict:
        with httpx.Client(base_url=member.url, timeout=60) as http:
            return ask(http, QUESTION)

    return [partial(question, members[i % len(members)]) for i in range(times)]


def test_an_outage_that_one_gateway_met_is_known_to_all_within_a_second(start_fleet, slack):
    """The other gateway does not ask the provider once, and its customers are answered at once; the worker knows it too."""
    with Provider(lambda _: Reply(status=500)).serving() as provider, ThreadPoolExecutor(8) as pool:
        fleet = start_fleet(OPENAI_BASE_URL=provider.url, ADMIN_TOKEN=TOKEN["x-admin-token"])
        first, second, worker = fleet.gateway(EXECUTION="local"), fleet.gateway(EXECUTION="local"), fleet.worker()
        customers = [pool.submit(question) for question in asked([first], 5)]
        wait_until(lambda: model_state(first) == "open", 30, fleet.said)

        took = wait_until(lambda: model_state(second) == "open" and '"by": "fleet"' in worker.said(), 10, fleet.said)

        assert {customer.result(60)["degraded"][-1]["what"] for customer in customers} == {"help_centre_answer"}
        assert 5 <= len(provider.requests) <= 2 * 5
        before = len(provider.requests)
        values = asked([second], 1)[0]()
        assert len(values["degraded"]) == 4
        assert {entry["why"] for entry in values["degraded"]} == {"circuit_open"}
        assert len(provider.requests) == before
    print(f"known to all after {took:.3f} s")  # noqa: T201
    assert took <= 1.0 * slack


def test_a_herd_that_waits_for_a_recovered_provider_is_held_to_the_probes(start_fleet, slack):
    """Forty customers arrive at once after the open time: each process lets three through. When those are well, everybody is."""
    gate = threading.Event()

    def recovering(request: Request) -> Reply:
        gate.wait(30)
        return healthy(request)

    with Provider(lambda _: Reply(status=500)).serving() as provider, ThreadPoolExecutor(CUSTOMERS) as pool:
        admin = TOKEN["x-admin-token"]
        fleet = start_fleet(OPENAI_BASE_URL=provider.url, ADMIN_TOKEN=admin, BREAKER_OPEN_SECONDS="2", LIMITS_ROUTING=PATIENT)
        gateways = [fleet.gateway(EXECUTION="local"), fleet.gateway(EXECUTION="local")]
        for customer in [pool.submit(question) for question in asked(gateways[:1], 5)]:
            customer.result(60)
        wait_until(lambda: [model_state(gateway) for gateway in gateways] == ["open", "open"], 10, fleet.said)
        wait_until(lambda: all(breaker["is_admitting"] for each in gateways for breaker in breakers(each).values()), 10)
        provider.requests.clear()
        provider.behaviour = recovering

        herd = [pool.submit(question) for question in asked(gateways, CUSTOMERS)]
        refused = CUSTOMERS - PROBES * len(gateways)
        wait_until(lambda: sum(customer.done() for customer in herd) >= refused, 30, fleet.said)
        assert len(provider.requests) == PROBES * len(gateways)
        gate.set()
        answers = [customer.result(60)["answer"] for customer in herd]

        assert answers.count("In the app, under Security.") == PROBES * len(gateways)
        wait_until(lambda: [model_state(gateway) for gateway in gateways] == ["closed", "closed"], 1.0 * slack, fleet.said)
        assert {question()["answer"] for question in asked(gateways, 4)} == {"In the app, under Security."}


def test_an_operator_is_heard_by_all_once_redis_is_back(start_fleet, redis, slack):
    """Meanwhile the process that was told obeys, answers in time, and says that the others do not know."""
    fleet = start_fleet(ADMIN_TOKEN=TOKEN["x-admin-token"])
    first, second = fleet.gateway(), fleet.gateway()
    redis.kill()

    answer = httpx.post(f"{first.url}/admin/breakers", json={"dependency": BILLING, "state": "isolated"}, headers=TOKEN, timeout=10)
    assert (answer.status_code, answer.json()["state"], answer.json()["is_fleet_wide"]) == (200, "isolated", False)
    assert answer.elapsed.total_seconds() <= 3.0 * slack
    assert breakers(second)[BILLING]["state"] == "closed"
    wait_until(lambda: "breakers_local_only" in first.said(), 10, first.said)
    redis.start()

    took = wait_until(lambda: breakers(second)[BILLING]["state"] == "isolated", 10, fleet.said)
    print(f"heard {took:.3f} s after Redis was back")  # noqa: T201
    assert took <= 1.0 * slack
