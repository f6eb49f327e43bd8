"""The scripted model keeps to its script, streamed or not."""

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage

from agents.models.scripted import ScriptedChatModel, calls, says, scripted_model


async def streamed(model: ScriptedChatModel) -> AIMessageChunk:
    whole: AIMessageChunk | None = None
    async for chunk in model.astream([HumanMessage("one two")]):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    return whole


async def test_lines_are_played_in_order_and_the_last_one_for_ever():
    """A script that is too short does not end."""
    model = ScriptedChatModel(lines=["a", "b"])

    assert [(await model.ainvoke("x")).text for _ in range(3)] == ["a", "b", "b"]


@pytest.mark.parametrize("line", ["one two three", "", calls(("f", {"x": 1}), ("g", {}), text="So:"), calls(("f", {"x": [1, "ñ"]}))])
async def test_a_streamed_answer_is_the_whole_answer(line):
    """Same text, same tool calls, same usage."""
    whole = await ScriptedChatModel(lines=[line]).ainvoke([HumanMessage("one two")])
    chunks = await streamed(ScriptedChatModel(lines=[line]))

    assert (chunks.text, chunks.tool_calls, chunks.usage_metadata) == (whole.text, whole.tool_calls, whole.usage_metadata)
    assert chunks.usage_metadata is not None
    assert chunks.usage_metadata["input_tokens"] == 2


async def test_a_line_may_be_an_error_or_depend_on_the_prompt():
    """Tests of failures and of what a prompt holds need no other model."""
    model = ScriptedChatModel(lines=[ConnectionError("gone"), lambda prompt: prompt[-1].text.upper()])

    with pytest.raises(ConnectionError):
        await model.ainvoke("x")
    assert (await model.ainvoke("loud")).text == "LOUD"
    assert [[m.text for m in prompt] for prompt in model.prompts] == [["x"], ["loud"]]


async def test_the_same_line_said_twice_is_two_messages():
    """Ids are the library's, so that one does not replace the other in a state."""
    model = ScriptedChatModel(lines=[calls(("f", {}))])

    first, second = await model.ainvoke("x"), await model.ainvoke("x")

    assert first.id != second.id


def test_a_scripted_model_can_be_named():
    """For chains in which one model follows another."""
    model = scripted_model("a", name="second")

    assert (model.name, model.provider) == ("second", "scripted")


def test_a_structured_answer_is_its_json():
    """With the customer's letters as they are."""
    assert says({"reason": "está"}) == '{"reason": "está"}'
