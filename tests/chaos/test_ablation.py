"""What each policy is worth: a scenario that ends well with it, and badly when it alone is switched off (`RESILIENCE_OFF`).

A scenario is a provider that is ill in one way, a few questions, and what must come of them. It counts requests and answers
rather than seconds, so that it is as sharp on a busy machine. Each is played twice at the same time: on a service as it is by
default, and on one without the policy.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx
import pytest

from resilience.registry import PolicyName
from tests.support.fleet import Fleet
from tests.support.provider import Behaviour, Provider, Reply, Request, concludes, is_routing, routes_to
from tests.support.redis_server import RedisServer, short_directory
from tests.support.traffic import MODES, Answer, Mode, ask, ask_all, customers

DOCUMENT = Path(__file__).parents[2] / "docs" / "resilience" / "README.md"
SPECIALIST = "technical_support"
QUESTION = "Is my PIN blocked?"
ANSWER = "Enter the wrong PIN three times and it is blocked."
SECOND_ANSWER = "The second model says this."


@dataclass(frozen=True)
class Stage:
    """A running service and the providers it asks.

    Args:
        http: The service.
        first: The provider of the models.
        second: The provider of the model that stands in.
        mode: How customers follow their runs.
    """

    http: httpx.AsyncClient
    first: Provider
    second: Provider
    mode: Mode

    async def ask(self, text: str = QUESTION, **wishes: float) -> Answer:
        """What a customer gets."""
        return await ask(self.http, text, self.mode, **wishes)


Scenario = Callable[[Stage], Awaitable[None]]
"""Asserts that all goes well."""


@dataclass(frozen=True)
class Play:
    """A scenario and what it needs.

    Args:
        scenario: What is played.
        policy: The policy that it shows.
        variables: Settings of the service.
    """

    scenario: Scenario
    policy: PolicyName
    variables: Mapping[str, str] = field(default_factory=dict)


PLAYS: list[Play] = []


def shows(policy: PolicyName, **variables: str) -> Callable[[Scenario], Scenario]:
    """Name the policy without which the scenario ends badly, and the settings of its service."""

    def note(scenario: Scenario) -> Scenario:
        PLAYS.append(Play(scenario, policy, variables))
        return scenario

    return note


def healthy(answer: str) -> Behaviour:
    return lambda request: routes_to(SPECIALIST) if is_routing(request) else concludes(answer)


def at_first(ill: Reply, times: int = 1) -> Behaviour:
    """Specialists' first requests meet `ill`; then all is well."""
    replies = itertools.chain([ill] * times, itertools.repeat(concludes(ANSWER)))
    return lambda request: routes_to(SPECIALIST) if is_routing(request) else next(replies)


@shows(PolicyName.RETRY)
async def an_error_that_passes_is_not_noticed(stage: Stage) -> None:
    """One 500, and the same model answers on the second try."""
    stage.first.behaviour = at_first(Reply(status=500))
    answer = await stage.ask()
    assert answer.text == ANSWER
    assert answer.is_whole


@shows(PolicyName.TIMEOUT, LIMITS="first_token=1,total=4")
async def a_call_that_hangs_is_tried_again(stage: Stage) -> None:
    """One call never answers, and the same model answers on the second try."""
    stage.first.behaviour = at_first(Reply(hangs=True))
    answer = await stage.ask()
    assert answer.text == ANSWER
    assert answer.is_whole


@shows(PolicyName.DEADLINE)
async def a_customer_in_a_hurry_gets_an_honest_answer_in_time(stage: Stage) -> None:
    """Every call hangs and four seconds are all there is: the run ends by itself and says what it could not do."""
    stage.first.behaviour = lambda request: Reply(hangs=True)
    answer = await stage.ask(deadline=4.0)
    assert answer.code == ""
    assert answer.text
    assert answer.degraded


@shows(PolicyName.BREAKER)
async def a_dead_provider_is_left_alone(stage: Stage) -> None:
    """Ten customers one after the other; the provider hears of the first five failures."""
    stage.first.behaviour = lambda request: Reply(status=500)
    for _ in range(10):
        await stage.ask()
    assert len(stage.first.requests) == 5


@shows(PolicyName.FALLBACK, MODEL_FALLBACK="second")
async def another_model_answers_for_one_that_refuses(stage: Stage) -> None:
    """The first provider refuses our key; the customer is answered by the second."""
    stage.first.behaviour = lambda request: Reply(status=401, code="invalid_api_key")
    answer = await stage.ask()
    assert answer.text == SECOND_ANSWER


# Without these two, or some of the thirty are refused at once, and what the others cost says less.
@shows(PolicyName.RETRY_BUDGET, RESILIENCE_OFF="admission,adaptive_limit")
async def a_throttling_provider_is_not_stormed_with_retries(stage: Stage) -> None:
    """Too busy, it says so to everybody; thirty customers cost it hardly more than thirty calls and ten retries, not ninety."""
    stage.first.behaviour = lambda request: Reply(status=429, code="rate_limit_exceeded")
    await asyncio.gather(*(stage.ask() for _ in range(30)))
    assert len([request for request in stage.first.requests if is_routing(request)]) <= 60


@shows(PolicyName.HEDGE)
async def a_straggler_is_overtaken(stage: Stage) -> None:
    """After thirty quick decisions one takes for ever; a customer with five seconds does not notice.

    On a loaded machine one of the thirty may have been slow itself, and have had the second call that they have earned together.
    """
    for _ in range(2):
        await ask_all(stage.http, [QUESTION] * 30, stage.mode, at_once=3)
        hangs = itertools.chain([True], itertools.repeat(False))
        stage.first.behaviour = lambda request, hangs=hangs: (
            Reply(hangs=True) if is_routing(request) and next(hangs) else healthy(ANSWER)(request)
        )
        answer = await stage.ask(deadline=5.0)
        if answer.is_whole:
            break
    assert answer.text == ANSWER
    assert answer.is_whole


@shows(PolicyName.REPAIR)
async def an_unusable_answer_is_asked_for_again(stage: Stage) -> None:
    """The specialist's model says nothing at all, and says it properly when it is told so."""
    stage.first.behaviour = at_first(Reply(""))
    answer = await stage.ask()
    assert answer.text == ANSWER
    assert answer.is_whole


@shows(PolicyName.RATE_LIMIT, API_KEYS="key:tenant", RATE_LIMIT_RPM="5")
async def a_tenant_gets_no_more_than_its_share(stage: Stage) -> None:
    """Five runs a minute are allowed: of ten at once five are answered, and five are told when to come back."""
    stage.http.headers["x-api-key"] = "key"
    answers = await asyncio.gather(*(stage.ask() for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 5


class Crowd:
    """A provider that answers after a while, and knows how many asked at once.

    Args:
        seconds: How long an answer takes.
    """

    def __init__(self, seconds: float) -> None:
        self.largest = 0
        self._seconds = seconds
        self._size = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            self._size += 1
            self.largest = max(self.largest, self._size)
        time.sleep(self._seconds)  # the provider's, in a thread of its own
        with self._lock:
            self._size -= 1
        return healthy(ANSWER)(request)


@shows(PolicyName.BULKHEAD, MAX_MODEL_CALLS="4")
async def a_model_gets_no_more_calls_at_once_than_it_may(stage: Stage) -> None:
    """Four are allowed, and twelve customers ask."""
    stage.first.behaviour = crowd = Crowd(0.3)
    await asyncio.gather(*(stage.ask() for _ in range(12)))
    assert crowd.largest <= 4


@shows(PolicyName.ADAPTIVE_LIMIT)
async def a_provider_that_asks_to_be_left_alone_is(stage: Stage) -> None:
    """It refuses everybody for a minute and says so; ten customers come one after the other, and it hears of the first three."""
    stage.first.behaviour = lambda request: Reply(status=429, code="rate_limit_exceeded", headers={"retry-after": "60"})
    for _ in range(10):
        await stage.ask()
    assert len(stage.first.requests) == 3


class Counter:
    """A provider with a few places: whoever comes meanwhile waits inside.

    Args:
        places: Calls that it works on at once.
        seconds: How long the work on one takes.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self.sizes: list[int] = []
        self._seconds = seconds
        self._places = threading.Semaphore(places)
        self._size = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            self._size += 1
            self.sizes.append(self._size)
        with self._places:
            time.sleep(self._seconds)  # the provider's, in a thread of its own
        with self._lock:
            self._size -= 1
        return healthy(ANSWER)(request)


# Without these two, or what keeps the calls away could be a refusal, and a second call for the same question would count.
@shows(PolicyName.ADAPTIVE_LIMIT, RESILIENCE_OFF="admission,hedge")
async def what_a_provider_can_work_on_is_found_out(stage: Stage) -> None:
    """It works on four calls at once and says so to nobody; forty customers never stop asking, and soon they wait here and not there."""
    stage.first.behaviour = counter = Counter(4, 0.2)
    answers = await ask_all(stage.http, [QUESTION] * 160, stage.mode, at_once=40)
    assert {answer.status for answer in answers} == {200}
    # Of 320 calls these come when it has had time to learn and nobody has left yet; without the limit all forty are there.
    assert median(counter.sizes[200:280]) <= 20


@shows(PolicyName.ADMISSION, MAX_MODEL_CALLS="4")
async def nobody_is_let_in_who_could_not_be_served(stage: Stage) -> None:
    """Forty customers with three seconds each, and time for twenty: whoever is not refused at once is served well."""
    stage.first.behaviour = Crowd(0.3)
    await ask_all(stage.http, [QUESTION] * 16, stage.mode, at_once=4)  # how long a run takes is known
    answers = await asyncio.gather(*(stage.ask(deadline=3.0) for _ in range(40)))
    assert {answer.status for answer in answers} == {200, 503}
    assert all(answer.is_whole for answer in answers if answer.status == 200)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "play",
    [
        pytest.param(
            play,
            id=f"{play.policy.value}-{play.scenario.__name__}",
            marks=[pytest.mark.alone("a starved service keeps nobody waiting there")]
            if play.scenario is what_a_provider_can_work_on_is_found_out
            else [],
        )
        for play in PLAYS
    ],
)
async def test_without_the_policy_it_ends_badly(play: Play, mode: Mode, tmp_path: Path):
    """The scenario ends well on a service as it is, and not on one whose `RESILIENCE_OFF` names the policy."""

    async def played(name: str, **variables: str) -> None:
        (tmp_path / name).mkdir()
        async with staged(tmp_path / name, mode, {**play.variables, **variables}) as stage:
            await play.scenario(stage)

    async def ends_badly() -> None:
        off = play.variables.get("RESILIENCE_OFF")
        with pytest.raises(AssertionError):
            await played("without", RESILIENCE_OFF=f"{off},{play.policy}" if off else play.policy)

    await asyncio.gather(played("with"), ends_badly())


def test_every_policy_has_a_scenario_and_the_document_names_it():
    """What can be switched off is shown to be worth it, and a reader finds by what."""
    rows = re.findall(r"^\| `(\w+)` \| \[[\w ]+\]\(([\w-]+\.md)\) \| `(\w+)` \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE)

    assert {(switch, scenario) for switch, _, scenario in rows} == {(play.policy.value, play.scenario.__name__) for play in PLAYS}
    assert {play.policy for play in PLAYS} == set(PolicyName)
    assert [page for _, page, _ in rows if not (DOCUMENT.parent / page).exists()] == []


@asynccontextmanager
async def staged(folder: Path, mode: Mode, variables: Mapping[str, str]) -> AsyncIterator[Stage]:
    """A service of its own, with a Redis of its own: what a breaker or a cache knows of one scenario is no other's business."""
    with ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        redis = stack.enter_context(RedisServer(directory))
        first, second = (stack.enter_context(Provider(healthy(answer)).serving()) for answer in (ANSWER, SECOND_ANSWER))
        models = {"OPENAI_BASE_URL": first.url, **({"FALLBACK_BASE_URL": second.url} if "MODEL_FALLBACK" in variables else {})}
        fleet = Fleet(folder, redis.url, **models, **variables)
        stack.callback(fleet.close)
        service = await asyncio.to_thread(fleet.gateway, EXECUTION="local")
        async with customers(service.url) as http:
            yield Stage(http, first, second, mode)
