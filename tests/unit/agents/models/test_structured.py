"""Answers of a given form, against a gateway over scripted models."""

import pytest
from langchain_core.messages import HumanMessage
from pydantic import BaseModel, Field

from agents.errors import ModelRejectedRequest, OutputInvalid
from agents.models.gateway import ModelGateway
from agents.models.port import Account, ModelRequest
from agents.models.scripted import Line, scripted_model
from agents.models.structured import complete_as
from resilience.deadline import Deadline
from resilience.registry import PolicyRegistry
from tests.support.cast import CountingMeter, RecordingTracer


class Verdict(BaseModel):
    """What is wanted."""

    grade: int = Field(ge=1, le=5)


async def judged(*lines: Line, second: tuple[Line, ...] = ()) -> tuple[tuple[Verdict, str] | Exception, Account]:
    """What came of it, and what it cost; a grade of 4 does not fit."""
    models = [scripted_model(*lines, name="first"), *([scripted_model(*second, name="second")] if second else [])]
    gateway, account = ModelGateway({"reasoning": models}, PolicyRegistry(), RecordingTracer(), CountingMeter()), Account()
    request = ModelRequest("reasoning", (HumanMessage("How was it?"),), response_schema=Verdict.model_json_schema())
    try:
        outcome = await complete_as(
            Verdict,
            gateway,
            request,
            Deadline.after(60.0),
            account=account,
            fault_of=lambda verdict: "4 is unlucky" if verdict.grade == 4 else "",
        )
    except (OutputInvalid, ModelRejectedRequest) as exc:
        return exc, account
    return outcome, account


async def test_an_answer_of_the_form_is_a_value():
    """With the name of the model that gave it."""
    assert (await judged('{"grade": 5}'))[0] == (Verdict(grade=5), "first")


@pytest.mark.parametrize("nonsense", ["five stars", '{"grade": 9}', "{}", '{"grade": 4}'])
async def test_one_that_is_not_is_repaired_once(nonsense):
    """Not JSON, out of range, incomplete, and of the form but unfit."""
    outcome, account = await judged(nonsense, '{"grade": 5}')

    assert outcome == (Verdict(grade=5), "first")
    assert account.usage.output_tokens == len(nonsense.split()) + 2
    assert account.degraded == []


async def test_nonsense_twice_goes_to_the_next_model():
    """And then it is a degradation."""
    outcome, account = await judged("five stars", second=('{"grade": 5}',))

    assert outcome == (Verdict(grade=5), "second")
    assert [entry.why for entry in account.degraded] == ["model_output_invalid"]


async def test_nonsense_to_the_end_is_a_failure_with_a_type():
    """That says what was wrong, and what it cost is known."""
    outcome, account = await judged('{"grade": 9}')

    assert isinstance(outcome, OutputInvalid)
    assert (outcome.reason, outcome.detail) == ("garbage", "grade: Input should be less than or equal to 5")
    assert account.usage.output_tokens == 2 * len(['{"grade":', "9}"])
