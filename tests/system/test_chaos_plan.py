"""A service whose operator injects faults on purpose (docs/resilience/chaos.md)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import httpx

from tests.support.protocol import ask
from tests.support.provider import concludes, is_routing, routes_to
from tests.support.service import Service
from tests.system.conftest import StartProvider, StartService

ANSWER = "Enter the wrong PIN three times and it is blocked."
QUESTIONS = 4


def plan(**fault: Any) -> str:
    return json.dumps({"seed": 7, "faults": [fault]})


def injected(service: Service) -> float:
    """How many faults the metrics count, whatever the dependency."""
    page = httpx.get(f"{service.url}/metrics").text
    return sum(map(float, re.findall(r'capataz_resilience_events_total\{.*kind="fault_injected".*\} (\S+)', page)))


def test_the_second_model_answers_for_one_that_fails_on_purpose(start_service: StartService, start_provider: StartProvider) -> None:
    """The provider never hears of the first model; the metrics count the faults, and the banner warns in capitals."""
    provider = start_provider(lambda request: routes_to("technical_support") if is_routing(request) else concludes(ANSWER))
    service = start_service(
        OPENAI_BASE_URL=provider.url,
        MODEL_ROUTING="first",
        MODEL_REASONING="first",
        MODEL_FALLBACK="second",
        CHAOS_PLAN=plan(dependency="model:*/first", errors=1.0),
    )

    with httpx.Client(base_url=service.url, timeout=60) as http:
        values = [ask(http, "Is my PIN blocked?") for _ in range(QUESTIONS)]

    assert [value["answer"] for value in values] == [ANSWER] * QUESTIONS
    assert {value["escalation"] for value in values} == {None}
    assert {request["model"] for request in provider.requests} == {"second"}
    assert injected(service) == 5  # then its breaker is open
    assert "CHAOS    FAULTS ARE INJECTED ON PURPOSE into model:*/first" in service.log_text()


def test_garbage_on_purpose_reaches_a_human_like_real_garbage(start_service: StartService) -> None:
    """The offline model answers nonsense and there is no second one: an honest answer, a human, a reason, and no failed run."""
    service = start_service(CHAOS_PLAN=plan(dependency="model:offline/*", garbage=1.0))

    with httpx.Client(base_url=service.url, timeout=60) as http:
        values = ask(http, "Is my PIN blocked?")

    assert values["answer"]
    assert values["escalation"]["context"]
    assert "model_output_invalid" in {entry["why"] for entry in values["degraded"]}
    assert injected(service) >= 1


def test_no_request_can_ask_for_faults(http: httpx.Client) -> None:
    """The public interface does not know of them."""
    assert "chaos" not in http.get("/openapi.json").raise_for_status().text.lower()


def test_a_plan_with_a_mistake_stops_the_start() -> None:
    """In words, with exit code 2."""
    wrong = plan(dependency="model:*", errors=20)

    ended = subprocess.run([sys.executable, "-m", "app.main"], env={"CHAOS_PLAN": wrong}, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 2
    assert "CHAOS_PLAN.faults.0.errors: Input should be less than or equal to 1" in ended.stderr
