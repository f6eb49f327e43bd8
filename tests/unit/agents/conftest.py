from collections.abc import Awaitable, Callable, Sequence

import pytest
from langchain_core.messages import AnyMessage, HumanMessage

from agents.models.scripted import Line
from agents.spec import AgentSpec
from agents.task import AgentResult, AgentTask, Customer
from resilience.context import Standing
from resilience.deadline import Deadline
from tests.support.cast import Cast
from tests.support.lexicon import Toolbox, lexicon
from tests.support.virtual_time import LoopClock, pytest_asyncio_loop_factories  # noqa: F401

RunSpecialist = Callable[..., Awaitable[AgentResult]]


@pytest.fixture
def run_specialist() -> RunSpecialist:
    """One message for one specialist of the product, whose model says the given lines."""

    async def run(
        name: str,
        *,
        user: str,
        model: Sequence[Line],
        customer: str | None = "C-1001",
        language: str = "en",
        history: Sequence[AnyMessage] = (),
    ) -> AgentResult:
        cast = Cast({name: model})
        task = AgentTask(
            spec=cast.specialists[name],
            history=(*history, HumanMessage(user)),
            customer=Customer(customer),
            language=language,
            deadline=Deadline.after(60.0, LoopClock()),
            standing=Standing("default"),
            run_id="run-1",
        )
        return await cast.runner.run(task)

    return run


@pytest.fixture
def tools() -> Toolbox:
    """The tools of `spec`, and what became of them."""
    return Toolbox()


@pytest.fixture
def spec(tools: Toolbox) -> AgentSpec:
    """A specialist of the tests' own."""
    return lexicon(tools)
