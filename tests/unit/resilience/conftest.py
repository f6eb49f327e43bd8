import pytest

from resilience.breaker import Breaker, BreakerSettings
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.events import ResilienceEvent
from resilience.testing import FakeClock
from tests.support.breaking import MakeBreaker
from tests.support.virtual_time import LoopClock, pytest_asyncio_loop_factories  # noqa: F401


@pytest.fixture
async def ctx() -> CallContext:
    """A call with a minute to go, in virtual time."""
    return CallContext("model:gpt-x", Deadline.after(60.0, LoopClock()))


@pytest.fixture
def events() -> list[ResilienceEvent]:
    """What was told to `events.append`."""
    return []


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(clock: FakeClock, events: list[ResilienceEvent]) -> MakeBreaker:
    """Makes a breaker on `clock`, without jitter unless it is asked for: `make(probes=1)`."""

    def make(**settings) -> Breaker:
        return Breaker("model:openai/gpt-x", BreakerSettings(**{"jitter": 0.0, **settings}), clock=clock, listener=events.append)

    return make
