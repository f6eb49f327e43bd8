"""Which errors say that a dependency is ill: docs/resilience/breaker.md, row by row."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents import errors as of_agents
from agents.errors import OutputInvalid
from resilience import errors as of_resilience
from resilience.breaker import Breaker, BreakerSettings, BreakerState
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import AttemptTimedOut, DeadlineExceeded, DependencyError, ResilienceError

DOCUMENT = (Path(__file__).parents[3] / "docs" / "resilience" / "breaker.md").read_text("utf-8")
ABSTRACT = {"ResilienceError", "Rejected", "DependencyError", "AgentError"}


def table() -> dict[str, bool]:
    """Whether it counts, by what ended the call."""
    section = DOCUMENT.split("## What counts")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return {name: {"yes": True, "no": False}[counts] for name, counts, _ in rows[2:]}


def error(name: str) -> BaseException:
    """The error that a row speaks of."""
    cls, _, reason = name.partition(" ")
    if cls == "OutputInvalid":
        return OutputInvalid(reason, "the test says so")
    others = {"ValueError": ValueError, "CancelledError": asyncio.CancelledError}
    found = getattr(of_agents, cls, None) or getattr(of_resilience, cls, None) or others[cls]
    if found is AttemptTimedOut:
        return AttemptTimedOut("model:a", 7.0)
    if found is DeadlineExceeded:
        return DeadlineExceeded("model:a")
    made: BaseException = found("model:a", "refused") if issubclass(found, ResilienceError) else found("the test says so")
    return made


@pytest.mark.parametrize(("name", "counts"), table().items())
async def test_what_counts_as_illness(name: str, counts: bool) -> None:
    """One such error opens a breaker that endures none, or leaves it closed."""
    breaker = Breaker("model:a", BreakerSettings(consecutive_failures=1))

    async def fail(ctx: CallContext) -> str:
        raise error(name)

    with pytest.raises(type(error(name))):
        await breaker.execute(fail, CallContext("model:a", Deadline.after(60.0)))

    assert breaker.state is (BreakerState.OPEN if counts else BreakerState.CLOSED)


def test_the_table_has_every_error_that_a_call_may_end_with() -> None:
    """A new error type must say where it belongs."""
    kinds = (ResilienceError, DependencyError, of_agents.AgentError)
    named = {
        name
        for module in (of_agents, of_resilience)
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, kinds)
    }

    assert {name.partition(" ")[0] for name in table()} - {"CancelledError", "ValueError"} == named - ABSTRACT
