import pytest

from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.events import ResilienceEvent
from tests.support.virtual_time import LoopClock, pytest_asyncio_loop_factories  # noqa: F401


@pytest.fixture
async def ctx() -> CallContext:
    """A call with a minute to go, in virtual time."""
    return CallContext("model:gpt-x", Deadline.after(60.0, LoopClock()))


@pytest.fixture
def events() -> list[ResilienceEvent]:
    """What was told to `events.append`."""
    return []
