"""One specialist's model hangs for ever, and forty customers wait for it: everybody else is served as if nothing were wrong."""

from __future__ import annotations

import asyncio
import time
from itertools import cycle, islice

import httpx
import pytest

from tests.chaos.conftest import IS_FULL
from tests.support.provider import Provider, Reply, Request, concludes, is_routing, routes_to
from tests.support.traffic import MODES, Answer, Mode, ask, ask_all, customers, p95
from tests.support.waiting import until

LATENCY = 0.05
"""What the healthy models take, seconds."""
WAITING = 40
AT_ONCE = 4
HANGING = "hangs-for-ever"
DESKS = {"invoice": "billing_support", "password": "technical_support", "hours": "general_support"}
BILLING = "There is a mistake on my invoice"
OTHERS = ("I cannot set my password", "What are your opening hours?")


class Town:
    """A provider whose billing model never answers; the others take `LATENCY`."""

    def __init__(self) -> None:
        self.hanging = 0

    async def is_full(self) -> bool:
        """Whether everybody has asked who will wait."""
        return self.hanging >= WAITING

    def __call__(self, request: Request) -> Reply:
        if request["model"] == HANGING:
            self.hanging += 1
            return Reply(hangs=True)
        time.sleep(LATENCY)  # the provider's, in a thread of its own
        if is_routing(request):
            asked = request["messages"][-1]["content"]
            return routes_to(next(desk for word, desk in DESKS.items() if word in asked))
        return concludes("That is how it is done.")


@pytest.mark.alone("two P95 of the same minute are compared")
@pytest.mark.parametrize("mode", MODES)
async def test_a_hanging_model_does_not_slow_other_specialists(start_fleet, count, mode: Mode):
    """P95 of the others while forty customers wait for the hanging one, against P95 without them, on the same service."""
    town, questions = Town(), list(islice(cycle(OTHERS), count(160, 60)))
    with Provider(town).serving() as provider:
        service = start_fleet(OPENAI_BASE_URL=provider.url, MODEL_BILLING_SUPPORT=HANGING).gateway(EXECUTION="local")
        async with customers(service.url) as http:
            await ask_all(http, questions[:20], mode, at_once=AT_ONCE)  # everything is warm
            alone = await ask_all(http, questions, mode, at_once=AT_ONCE)
            waiting = [asyncio.create_task(ask(http, BILLING, mode)) for _ in range(WAITING)]
            await until(town.is_full, 20)
            beside = await _meanwhile(http, questions, mode, waiting)
            told = await asyncio.gather(*waiting)
    print(f"{mode}: P95 of others {p95(alone) * 1000:.0f} ms alone, {p95(beside) * 1000:.0f} ms beside {WAITING} who wait")  # noqa: T201
    assert all(answer.is_whole for answer in [*alone, *beside])
    assert len(beside) >= len(questions) // 2, "hardly anybody was served while they waited"
    assert p95(beside) <= (1.5 if IS_FULL else 3.0) * p95(alone)
    # Those who waited were not left alone either: their answer says what could not be had.
    assert all(answer.text and answer.degraded for answer in told)


async def _meanwhile(http: httpx.AsyncClient, questions: list[str], mode: Mode, waiting: list[asyncio.Task[Answer]]) -> list[Answer]:
    """The answers to `questions`, as far as they were asked before the first of those who wait gave up."""
    left = iter(questions)
    answers: list[Answer] = []

    async def work() -> None:
        for text in left:
            if any(task.done() for task in waiting):
                return
            answers.append(await ask(http, text, mode))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return answers
