"""How a specialist works on one message: tools, conclusions, and the ways in which it ends."""

import asyncio

import pytest
from langchain_core.messages import ToolMessage

from agents.models.scripted import calls
from agents.runner import GROUNDED, UNGROUNDED
from resilience.errors import TransientError
from tests.support.lexicon import CONCLUDED, Refused, Stage


async def test_results_of_tools_go_back_to_the_model_in_the_order_of_its_calls(spec, tools):
    """Two calls in one message run at once and are answered in order, right behind the message that made them."""
    tools.pause = 1.0
    stage = Stage(spec, calls(("look_up", {"word": "cat"}), ("look_up", {"word": "dog"})), CONCLUDED)

    result = await stage.run()

    assert [told["meaning"] for told in stage.told()] == ["cat means cat", "dog means dog"]
    assert asyncio.get_running_loop().time() == pytest.approx(1.0)
    asked, *answers = result.trail
    assert [call["id"] for call in asked.tool_calls] == [answer.tool_call_id for answer in answers]
    assert [use.arguments["word"] for use in result.tool_uses] == ["cat", "dog"]


async def test_a_tool_that_does_not_exist_is_an_error_the_model_can_mend(spec):
    """The model is told and can go on."""
    stage = Stage(spec, calls(("fly", {})), CONCLUDED)

    result = await stage.run()

    assert stage.told() == [{"error": "tool_unknown"}]
    assert result.answer.text == "Done."


async def test_arguments_that_do_not_fit_are_told_to_the_model(spec, tools):
    """The text names the field; the tool does not run."""
    stage = Stage(spec, calls(("look_up", {"wort": "cat"})), calls(("look_up", {"word": "cat"})), CONCLUDED)

    await stage.run()

    [told] = stage.told(1)
    assert told["error"] == "tool_arguments_invalid"
    assert "word" in told["message"]
    assert tools.words == ["cat"]


async def test_what_a_tool_refuses_is_told_with_its_code_and_its_text(spec, tools):
    """The tool's own error says what to do about it."""
    tools.faults = [Refused("Ask for another word.")]
    stage = Stage(spec, calls(("look_up", {"word": "cat"})), CONCLUDED)

    result = await stage.run()

    assert stage.told() == [{"error": "refused", "message": "Ask for another word."}]
    assert [use.error for use in result.tool_uses] == ["refused"]
    assert [m.status for m in result.trail if isinstance(m, ToolMessage)] == ["error"]


async def test_a_tool_that_hangs_is_given_up_in_its_own_time(spec, tools):
    """The specialist goes on without it; a reading tool is tried again as its pipeline allows."""
    tools.pause = 60.0
    stage = Stage(spec, calls(("look_up", {"word": "cat"})), CONCLUDED)

    result = await stage.run()

    assert result.answer.text == "Done."
    assert [use.error for use in result.tool_uses] == ["attempt_timed_out"]
    assert asyncio.get_running_loop().time() < 10.0


async def test_a_dependency_of_a_tool_that_fails_is_told_without_its_text(spec, tools):
    """What another system says in its errors is not for a prompt."""
    tools.faults = [TransientError("secret host db-7 is down")] * 3
    stage = Stage(spec, calls(("look_up", {"word": "cat"})), CONCLUDED)

    await stage.run()

    assert stage.told() == [{"error": "dependency_unavailable"}]
    assert len(tools.words) == 3


async def test_a_conclusion_beside_the_answer_ends_the_work(spec):
    """One model call is enough."""
    stage = Stage(spec, CONCLUDED)

    result = await stage.run()

    assert (result.answer.text, result.confidence, result.sources) == ("Done.", 0.9, ("a",))
    assert result.answer.tool_calls == []
    assert len(stage.cast.prompts("lexicon")) == 1


async def test_a_conclusion_before_the_answer_counts_too(spec):
    """Models that first conclude and then write are understood."""
    result = await Stage(spec, calls(("conclude", {"confidence": 0.4})), "Perhaps so.").run()

    assert (result.answer.text, result.confidence) == ("Perhaps so.", 0.4)


async def test_a_conclusion_that_is_said_twice_is_one(spec):
    """The last of two in one message counts, and the answer is not asked for again."""
    twice = calls(("conclude", {"confidence": 0.2}), ("conclude", {"confidence": 0.8}), text="Done.")
    stage = Stage(spec, twice)

    result = await stage.run()

    assert (result.confidence, len(stage.cast.prompts("lexicon"))) == (0.8, 1)


@pytest.mark.parametrize(
    ("lines", "confidence"),
    [
        (["Just so."], UNGROUNDED),
        ([calls(("look_up", {"word": "cat"})), "Just so."], GROUNDED),
        ([calls(("fly", {})), "Just so."], UNGROUNDED),
    ],
)
async def test_an_answer_without_a_conclusion_is_as_sure_as_its_ground(spec, lines, confidence):
    """Only a tool that found something is ground."""
    assert (await Stage(spec, *lines).run()).confidence == confidence


async def test_a_confidence_out_of_range_is_asked_for_again(spec):
    """The answer is not let out with a number that means nothing."""
    stage = Stage(spec, calls(("conclude", {"confidence": 7}), text="Done."), CONCLUDED)

    result = await stage.run()

    assert stage.told()[0]["error"] == "tool_arguments_invalid"
    assert result.confidence == 0.9


async def test_text_beside_a_tool_call_is_no_answer_yet(spec):
    """ "Let me look" is followed by looking."""
    result = await Stage(spec, calls(("look_up", {"word": "cat"}), text="Let me look."), CONCLUDED).run()

    assert result.answer.text == "Done."


async def test_a_hand_back_ends_the_work(spec, tools):
    """Other calls of the same message are not made."""
    result = await Stage(spec, calls(("look_up", {"word": "cat"}), ("hand_back", {"reason": "a number", "suggestion": "numbers"}))).run()

    assert (result.hand_back.reason, result.hand_back.suggestion) == ("a number", "numbers")
    assert (result.answer, result.human, result.failure, tools.words) == (None, None, None, [])


async def test_a_call_for_a_human_ends_the_work(spec):
    """The reason is the specialist's own words."""
    result = await Stage(spec, calls(("call_human", {"reason": "it hurts"}))).run()

    assert (result.human.reason, result.human.summary) == ("specialist_asked", "it hurts")


async def test_an_irreversible_tool_is_prepared_and_not_run(spec):
    """The action waits for a human; arguments that do not fit are mended first."""
    result = await Stage(spec, calls(("burn", {})), calls(("burn", {"word": "cat"}))).run()

    assert result.human.reason == "approval_required"
    assert [(call["name"], call["args"]) for call in result.human.action.message.tool_calls] == [("burn", {"word": "cat"})]
