"""The provider is down and comes back: it is left alone after a known number of failures, and nobody storms it when it recovers."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import httpx
import pytest

from resilience.breaker import BreakerSettings
from tests.chaos.conftest import PATIENT
from tests.support.provider import Provider, Reply, Request, concludes, is_routing, routes_to
from tests.support.traffic import MODES, Mode, ask, ask_all, customers
from tests.support.waiting import until

CUSTOMERS = 40
OPEN_TIME = 1.0
PACE = 0.1
"""How soon a customer asks again who got no good answer, seconds."""
FAILURES, PROBES = BreakerSettings().consecutive_failures, BreakerSettings().probes
QUESTION = "Is my PIN blocked?"


class Outage:
    """A provider that is down, then back but slow to answer, then well.

    Attributes:
        asked: Requests since the provider came back.
        most: Most of them at once.
    """

    def __init__(self) -> None:
        self.is_down = True
        self.asked = 0
        self.most = 0
        self.lets_go = threading.Event()
        self._under_way = 0
        self._lock = threading.Lock()

    async def is_probed(self) -> bool:
        """Whether as many have asked as may before anybody was served."""
        return self.asked >= PROBES

    def __call__(self, request: Request) -> Reply:
        if self.is_down:
            return Reply(status=500)
        with self._lock:
            self.asked += 1
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        self.lets_go.wait(30)
        with self._lock:
            self._under_way -= 1
        return routes_to("technical_support") if is_routing(request) else concludes("It is.")


@pytest.mark.parametrize("mode", MODES)
async def test_a_provider_that_fails_is_left_alone_after_a_known_number_of_calls(start_fleet, count, mode: Mode):
    """Five failures in a row, with their retries, are all that it hears of one who asks; of many at once, what was under way by then."""
    with Provider(lambda request: Reply(status=500)).serving() as provider:
        services = [start_fleet(OPENAI_BASE_URL=provider.url, MODEL_REASONING=name).gateway(EXECUTION="local") for name in ("one", "many")]
        async with customers(services[0].url) as http:
            for _ in range(5):
                await ask(http, QUESTION, mode)
            assert len(provider.requests) == FAILURES
        provider.requests.clear()
        async with customers(services[1].url) as http:
            at_once = count(CUSTOMERS, 10)
            await ask_all(http, [QUESTION] * at_once, mode, at_once=at_once)
            assert FAILURES <= len(provider.requests) < FAILURES + at_once
            heard = len(provider.requests)
            answers = await ask_all(http, [QUESTION] * at_once, mode, at_once=at_once)
            assert len(provider.requests) == heard, "its breaker is open, and it was asked"
    assert all(answer.status == 200 and answer.text and answer.degraded for answer in answers)


@pytest.mark.parametrize("mode", MODES)
async def test_a_provider_that_comes_back_is_not_stormed(start_fleet, mode: Mode):
    """Forty customers ask again and again: until the probes have succeeded the provider sees no more than those, then all are served."""
    outage = Outage()
    with Provider(outage).serving() as provider:
        fleet = start_fleet(OPENAI_BASE_URL=provider.url, BREAKER_OPEN_SECONDS=str(OPEN_TIME), LIMITS_ROUTING=PATIENT)
        service = fleet.gateway(EXECUTION="local")
        async with customers(service.url) as http:
            await ask_all(http, [QUESTION] * 4, mode, at_once=2)
            outage.is_down = False
            served, turned_away = asyncio.Queue[None](), asyncio.Queue[None]()
            herd = [asyncio.create_task(_customer(http, mode, served, turned_away)) for _ in range(CUSTOMERS)]
            try:
                async with asyncio.timeout(60):
                    await until(outage.is_probed, 60)
                    for _ in range(2 * CUSTOMERS):
                        await turned_away.get()
                    assert outage.most == outage.asked == PROBES
                    outage.lets_go.set()
                    for _ in range(CUSTOMERS):
                        await served.get()
            finally:
                outage.lets_go.set()
                for customer in herd:
                    customer.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.gather(*herd)


async def _customer(http: httpx.AsyncClient, mode: Mode, served: asyncio.Queue[None], turned_away: asyncio.Queue[None]) -> None:
    """One who asks until the answer is a good one."""
    while not (await ask(http, QUESTION, mode)).is_whole:
        turned_away.put_nowait(None)
        await asyncio.sleep(PACE)
    served.put_nowait(None)
