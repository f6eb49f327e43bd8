"""What stops a specialist, and what is kept of its work then."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from agents.errors import ModelUnavailable
from agents.models.limits import ModelLimits
from agents.models.port import ModelReply
from agents.models.scripted import calls, scripted_model
from agents.usage import Usage
from resilience.context import CallContext
from resilience.deadline import Deadline
from tests.support.lexicon import CONCLUDED, Stage
from tests.support.virtual_time import LoopClock


async def test_a_specialist_that_never_answers_is_stopped(spec):
    """What it found until then is kept, and what it cost."""
    stage = Stage(spec, *(calls(("look_up", {"word": str(i)})) for i in range(9)))

    result = await stage.run()

    assert result.failure == "specialist_step_limit"
    assert [use.arguments["word"] for use in result.tool_uses] == ["0", "1", "2", "3"]
    assert result.usage.output_tokens == 4
    assert ("agent", "lexicon", {"error": "specialist_step_limit"}) in stage.cast.tracer.spans


async def test_the_same_call_over_and_over_is_stopped(spec):
    """Three times the same arguments, in whatever order of keys, is a circle."""
    result = await Stage(spec, calls(("look_up", {"word": "cat"}))).run()

    assert result.failure == "specialist_repeated_call"
    assert len(result.tool_uses) == 3


async def test_a_model_that_is_out_fails_the_specialist_with_its_code(spec):
    """Earlier findings are not lost with it."""
    stage = Stage(spec, calls(("look_up", {"word": "cat"})), ModelUnavailable("out"))

    result = await stage.run()

    assert result.failure == "model_unavailable"
    assert [use.tool for use in result.tool_uses] == ["look_up"]
    assert result.usage.output_tokens > 0


class HangingModel:
    """A model that never answers."""

    name, provider = "hanging", "scripted"

    async def complete(self, request: Any, ctx: CallContext) -> Any:
        await asyncio.Event().wait()


async def test_a_hanging_model_is_its_own_fault_and_not_the_specialists(spec):
    """The model's breaker hears of it before the specialist's time is up; the specialist's breaker does not (design D6)."""
    stage = Stage(spec, chains={"lexicon": [HangingModel()]})

    failures = [(await stage.run(deadline=Deadline.after(60.0, LoopClock()))).failure for _ in range(6)]

    # The fifth attempt that timed out opened the model's breaker; from then on nobody waits.
    assert failures == ["deadline_exceeded"] * 4 + ["circuit_open"] * 2
    assert not stage.cast.policies.breaker("model:scripted/hanging").is_admitting
    assert stage.cast.is_available("lexicon")


async def test_a_hanging_model_leaves_time_for_the_next_one(spec):
    """The second model answers within the specialist's time, and the result says so."""
    stage = Stage(spec, chains={"lexicon": [HangingModel(), scripted_model("Done.")]})

    result = await stage.run()

    assert result.answer.text == "Done."
    assert [entry.what for entry in result.degraded] == ["model:scripted/hanging"]
    assert asyncio.get_running_loop().time() < 10.0


class SlowTalker:
    """A model that begins to answer after `pause` seconds and takes `seconds` more."""

    name, provider = "slow", "scripted"

    def __init__(self, pause: float, seconds: float, *, is_read: bool = True) -> None:
        self._pause, self._seconds, self._is_read = pause, seconds, is_read

    async def complete(self, request: Any, ctx: CallContext) -> ModelReply:
        await asyncio.sleep(self._pause)
        if self._is_read:
            ctx.output.start()
        await asyncio.sleep(self._seconds)
        return ModelReply(AIMessage("A long answer."), Usage(), self.name)


async def test_an_answer_that_is_being_read_may_outlast_the_specialists_time(spec):
    """Its time bounds the wait for the first word; after that the run's does, and the role's `total`."""
    stage = Stage(spec, chains={"lexicon": [SlowTalker(5.0, spec.timeout)]})
    assert (await stage.run(deadline=Deadline.after(60.0, LoopClock()))).answer.text == "A long answer."

    for talker in (SlowTalker(5.0, ModelLimits().total), SlowTalker(5.0, spec.timeout, is_read=False)):
        stage = Stage(spec, chains={"lexicon": [talker]})
        begun = asyncio.get_running_loop().time()

        result = await stage.run(deadline=Deadline.after(60.0, LoopClock()))

        assert result.failure in ("deadline_exceeded", "attempt_timed_out")
        assert asyncio.get_running_loop().time() - begun <= ModelLimits().total


async def test_an_answer_that_is_being_read_ends_with_the_run(spec):
    """Nothing outlasts the deadline."""
    stage = Stage(spec, chains={"lexicon": [SlowTalker(1.0, 3600.0)]})

    result = await stage.run(deadline=Deadline.after(4.0, LoopClock()))

    assert result.failure == "deadline_exceeded"
    assert asyncio.get_running_loop().time() == pytest.approx(4.0)


async def test_a_quick_specialist_gives_up_sooner(spec):
    """Five seconds in all, of which one attempt may wait three; what hangs is the model's fault, not the specialist's."""
    spec = replace(spec, timeout=5.0)
    stage = Stage(spec, chains={"lexicon": [HangingModel(), scripted_model("Done.")]})

    result = await stage.run()

    assert result.answer.text == "Done."
    assert asyncio.get_running_loop().time() < 5.0
    assert stage.cast.meter.attempts == [("hanging", "cancelled"), ("scripted", "ok")]


async def test_a_specialist_whose_breaker_is_open_is_not_run(spec):
    """It fails at once, and no model is asked."""
    stage = Stage(spec)
    stage.cast.policies.breaker("specialist:lexicon").isolate()

    assert (await stage.run()).failure == "circuit_open"


async def test_a_fault_of_the_program_in_one_tool_stops_the_others(spec, tools):
    """It is not told to the model, and nothing goes on behind the back of a run that has failed."""
    tools.pause, tools.faulty = 0.5, {"cat": AssertionError("a bug")}
    stage = Stage(spec, calls(("look_up", {"word": "dog"}), ("look_up", {"word": "cat"})), CONCLUDED)

    with pytest.raises(ExceptionGroup):
        await stage.run()

    await asyncio.sleep(10.0)
    assert (tools.words, tools.found) == (["dog", "cat"], [])
