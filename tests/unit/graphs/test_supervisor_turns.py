"""A conversation over several turns: what is kept, what is streamed, what is recorded."""

import json

import pytest

from agents.models.scripted import calls
from tests.support.conversation import BILLING, GENERAL, TECHNICAL, Conversation, answers, routes


async def test_a_new_turn_begins_anew_and_remembers_the_conversation():
    """Nothing of the last turn's escalation, findings or usage is left; its messages and the customer are."""
    talk = Conversation(routing=[routes(TECHNICAL)], technical_support=[answers("Yes.")])
    await talk.say("quiero cancelar mi cuenta", id="C-1001", locale="es-ES")

    result = await talk.say("and does the app work?")

    assert (result["answer"], result["escalation"], result["degraded"]) == ("Yes.", None, [])
    assert [m.type for m in result["messages"]] == ["human", "ai", "human", "ai"]
    state = await talk.state()
    assert (state["hops"], len(state["visits"]), state["findings"], state["language"]) == (1, 1, [], "en")
    assert state["customer"]["id"] == "C-1001"
    assert talk.cast.prompts(TECHNICAL)[0][1].text == "quiero cancelar mi cuenta"


async def test_a_turn_that_says_little_of_the_customer_forgets_nothing():
    """A caller who sends only the locale with the second message still speaks of the same VIP."""
    talk = Conversation(routing=[routes(GENERAL)], general_support=[answers("Hello!")])
    await talk.say("hi", id="C-1001", tier="vip")

    result = await talk.say("quiero hablar con una persona", locale="es-ES")

    assert result["escalation"]["reason"] == "vip_asked_for_human"
    assert result["escalation"]["context"]["customer"] == {"id": "C-1001", "tier": "vip", "locale": "es-ES"}


async def test_a_turn_that_died_goes_on_where_it_was():
    """The decision that was made is not made again."""
    talk = Conversation(routing=[routes(GENERAL)], general_support=[AssertionError("the process died"), answers("Hello!")])
    with pytest.raises(AssertionError):
        await talk.say("hi", message_id="m-1")

    result = await talk.run(None)

    assert result["answer"] == "Hello!"
    assert len(talk.cast.prompts("routing")) == 1


async def test_the_same_message_after_its_answer_is_asked_anew():
    """A client that sends its message again gets an answer again, and the message is not doubled."""
    talk = Conversation(routing=[routes(GENERAL)], general_support=[answers("Hello!"), answers("Hello again!")])
    await talk.say("hi", message_id="m-1")

    result = await talk.say("hi", message_id="m-1")

    assert result["answer"] == "Hello again!"
    assert [m.type for m in result["messages"]].count("human") == 1
    assert (await talk.state())["hops"] == 1


@pytest.mark.parametrize(
    "given", [{"messages": []}, {"messages": [{"role": "assistant", "content": "I ask"}]}, {"customer": {"locale": "es"}}]
)
async def test_a_run_without_a_message_of_the_customer_ends_with_a_human(given):
    """It has every key of a result, and does not crash."""
    result = await Conversation().run(given)

    assert result["escalation"]["reason"] == "no_question"
    assert result["escalation"]["context"]["question"] is None
    assert (result["specialist"], result["degraded"], result["usage"]["input_tokens"]) == (None, [], 0)
    assert result["answer"].startswith("Ahora" if "customer" in given else "I cannot")


async def test_the_language_of_the_answer_is_that_of_the_message():
    """And the locale decides where the words do not."""
    talk = Conversation(routing=[routes(GENERAL)], general_support=[answers("Vale.")])
    await talk.say("¿Cuándo llega mi pedido?", locale="en-GB")
    await talk.say("ok", locale="es-ES")
    await talk.say("When does my order arrive?", locale="es-ES")

    told = [prompt[0].text for prompt in talk.cast.prompts(GENERAL)]
    assert ["Answer in Spanish." in text for text in told] == [True, True, False]
    assert "Answer in English." in told[2]


async def test_the_tokens_of_an_answer_are_those_of_its_message():
    """Under the specialist's name and the final message's id; the router's tokens stay inside."""
    talk = Conversation(routing=[routes(GENERAL)], general_support=[answers("one two three")])

    tokens = await talk.watch("hi")

    message = (await talk.state())["messages"][-1]
    spoken = [(node, message_id, text) for node, message_id, text in tokens if text]
    assert spoken == [(GENERAL, message.id, word) for word in ("one", " two", " three")]
    assert message.name == GENERAL


async def test_words_beside_a_tool_call_and_a_farewell_are_messages_of_their_own():
    """What was only a step keeps its own id, and so does the supervisor's last word."""
    talk = Conversation(
        routing=[routes(TECHNICAL)],
        technical_support=[calls(("service_status", {}), text="Let me look."), answers("No idea.", 0.1)],
    )

    tokens = await talk.watch("The app crashes")

    messages = (await talk.state())["messages"]
    assert [(m.type, m.text) for m in messages if m.type == "ai"] == [("ai", "Let me look."), ("ai", messages[-1].text)]
    assert messages[1].id in {message_id for _, message_id, _ in tokens}
    assert messages[-1].name == "supervisor"
    assert len({m.id for m in messages}) == len(messages)


async def test_the_state_is_plain_data_without_prompts():
    """All but the messages is JSON, and no instruction to a model is kept anywhere."""
    talk = Conversation(
        routing=[routes(TECHNICAL)],
        technical_support=[calls(("service_status", {})), answers("Perhaps.", 0.5), answers("Perhaps not.", 0.1)],
        reasoning=["Thin."],
    )
    await talk.say("The app crashes", id="C-1001", locale="en")

    state = await talk.state()
    messages = state.pop("messages")
    kept = json.dumps(state) + "".join(message.model_dump_json() for message in messages)
    assert {message.type for message in messages} == {"human", "ai", "tool"}
    for prompt in (talk.cast.specialists[TECHNICAL].prompt, talk.cast.instructions("routing"), talk.cast.instructions("reasoning")):
        assert not any(line in kept for line in prompt.splitlines() if len(line) > 40)


async def test_a_human_is_shown_the_end_of_a_long_conversation():
    """The state of an escalation does not grow with the conversation."""
    talk = Conversation(routing=[routes(GENERAL)], general_support=[answers("Yes.")])
    for i in range(15):
        await talk.say(f"question {i}")

    shown = (await talk.say("quiero cancelar mi cuenta"))["escalation"]["context"]["conversation"]

    assert len(shown) == 20
    assert shown[-1]["text"] == "quiero cancelar mi cuenta"


async def test_a_specialist_that_calls_a_human_ends_the_turn():
    """With its own words as the summary."""
    talk = Conversation(routing=[routes(BILLING)], billing_support=[calls(("call_human", {"reason": "the amount is disputed"}))])

    result = await talk.say("This amount is wrong")

    assert (result["escalation"]["reason"], result["escalation"]["summary"]) == ("specialist_asked", "the amount is disputed")
    assert result["answer"].startswith("I am handing you over")


async def test_every_step_of_a_turn_has_a_span():
    """Nodes, specialists, tools and model calls, each under its name."""
    talk = Conversation(routing=[routes(TECHNICAL)], technical_support=[calls(("service_status", {})), answers("Fine.", 0.2)])

    await talk.say("The app crashes")

    assert [(kind, name) for kind, name, _ in talk.cast.tracer.spans] == [
        ("chain", "supervise"),
        ("generation", "model:routing"),
        ("agent", TECHNICAL),
        ("generation", f"model:{TECHNICAL}"),
        ("tool", "service_status"),
        ("generation", f"model:{TECHNICAL}"),
        ("chain", "escalate"),
    ]
