"""What an assistant may change about the supervisor, and that it does."""

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import ValidationError

from graphs.configuration import SupervisorConfiguration, configuration_over
from graphs.routing import Thresholds, after_reflect, after_specialist
from graphs.state import Draft
from graphs.supervisor import build_supervisor
from tests.support.cast import Cast
from tests.support.conversation import BILLING, GENERAL, TECHNICAL, Conversation, answers, hands_back, routes

REFUND = "I want my money back for AZ-10234"


def talk_with(configuration: dict, **lines: list) -> Conversation:
    talk = Conversation(**lines)
    talk.configuration = configuration_over(talk.cast.specialists).model_validate(configuration)
    return talk


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"specialists": ["poetry_support"]}, "there is no specialist 'poetry_support'; there are: a, b"),
        ({"specialists": "a"}, "tuple"),
        ({"answer_at": 1.01}, "less than or equal to 1"),
        ({"escalate_below": -0.1}, "greater than or equal to 0"),
        ({"answer_at": "0.5"}, "valid number"),
        ({"answer_at": True}, "valid number"),
        ({"answer_at": None}, "valid number"),
        ({"answer_at": 0.2}, "escalate_below (0.3) must not be above answer_at (0.2)"),
        ({"locale": "Klingon!"}, "pattern"),
        ({"answer_At": 0.8}, "not permitted"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(given, fault):
    """With what is wrong; a misspelt key is not passed over."""
    with pytest.raises(ValidationError) as refused:
        configuration_over(["b", "a"]).model_validate(given)

    assert fault in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [{}, {"specialists": None}, {"specialists": []}, {"answer_at": 0.3}, {"answer_at": 0, "escalate_below": 0}, {"locale": "es-MX"}],
)
def test_a_configuration_comes_back_as_it_was_given(given):
    """Stored as what was said, and read anew wherever the run executes."""
    schema = configuration_over(["a"])
    stored = schema.model_validate(given).model_dump(mode="json", exclude_unset=True)

    assert stored == given
    assert schema.model_validate(stored) == schema.model_validate(given)


def test_the_schema_names_the_specialists():
    """So that a form can offer them."""
    shown = configuration_over(["b", "a"]).model_json_schema()

    assert shown["title"] == "SupervisorContext"
    assert shown["properties"].keys() == {"specialists", "answer_at", "escalate_below", "locale"}
    assert shown["properties"]["specialists"]["anyOf"][0]["items"]["enum"] == ["a", "b"]
    assert shown["properties"]["answer_at"]["default"] == 0.7


@pytest.mark.parametrize(
    ("answer_at", "escalate_below", "confidence", "first", "second"),
    [
        (0.9, 0.3, 0.89, "reflect", "respond"),
        (0.9, 0.3, 0.9, "respond", "respond"),
        (0.4, 0.3, 0.45, "respond", "respond"),
        (0.4, 0.3, 0.39, "reflect", "escalate"),
        (0.9, 0.6, 0.59, "escalate", "escalate"),
        (0.9, 0.6, 0.6, "reflect", "respond"),
        (0.5, 0.5, 0.49, "escalate", "escalate"),
        (0.5, 0.5, 0.5, "respond", "respond"),
        (1.0, 0.0, 0.0, "reflect", "escalate"),
    ],
)
def test_the_thresholds_decide_what_becomes_of_a_draft(answer_at, escalate_below, confidence, first, second):
    """A second look never asks for more than a first one, nor lets out what a human must see."""
    thresholds = Thresholds(answer_at, escalate_below)
    draft = Draft(id="m", text="so", specialist=BILLING, confidence=confidence, sources=[])

    assert after_specialist({"draft": draft, "critique": None}, thresholds) == first
    assert after_specialist({"draft": draft, "critique": "thin"}, thresholds) == second
    assert after_reflect({"draft": draft, "critique": ""}, thresholds) == second


async def test_a_run_is_judged_by_its_own_thresholds():
    """The same answer is given by one assistant, reflected on by the usual one, and left to a human by a third."""
    lines = {"routing": [routes(BILLING)], "billing_support": [answers("So.", 0.6)]}
    bold = talk_with({"answer_at": 0.5}, **lines)
    usual = talk_with({}, reasoning=["Which fee?"], **lines)
    careful = talk_with({"escalate_below": 0.65}, **lines)

    assert (await bold.say("Hm?"))["answer"] == "So."
    assert await bold.path() == ["supervise", BILLING, "respond"]
    assert (await usual.say("Hm?"))["answer"] == "So."
    assert await usual.path() == ["supervise", BILLING, "reflect", BILLING, "respond"]
    assert (await careful.say("Hm?"))["escalation"]["reason"] == "low_confidence"


async def test_a_reflection_that_finds_nothing_is_judged_by_the_runs_thresholds():
    """Without a critique the draft is judged as it stands."""
    lines = {"routing": [routes(BILLING)], "billing_support": [answers("So.", 0.6)], "reasoning": [""]}

    result = await talk_with({"escalate_below": 0.6}, **lines).say("Hm?")
    strict = await talk_with({"answer_at": 0.9, "escalate_below": 0.6}, **lines).say("Hm?")

    assert result["answer"] == strict["answer"] == "So."


async def test_routing_is_judged_by_the_runs_threshold():
    """An unsure decision is tried where the assistant says so."""
    lines = {"routing": [routes(BILLING, 0.2)], "billing_support": [answers("So.")]}

    assert (await talk_with({"escalate_below": 0.1}, **lines).say("Hm?"))["answer"] == "So."
    assert (await talk_with({}, routing=lines["routing"]).say("Hm?"))["escalation"]["reason"] == "low_routing_confidence"


async def test_only_the_named_specialists_are_offered():
    """The router is not told of the others, and cannot choose one."""
    talk = talk_with({"specialists": [GENERAL, BILLING]}, routing=[routes(TECHNICAL), routes(GENERAL)], general_support=[answers("Hello!")])

    result = await talk.say("My router is broken")

    assert (result["answer"], result["specialist"]) == ("Hello!", GENERAL)
    told = talk.cast.instructions("routing", 0)
    assert f"- {BILLING}: " in told
    assert f"- {TECHNICAL}: " not in told


async def test_a_hand_back_to_one_who_is_not_offered_is_decided_anew():
    """A suggestion does not open a door that the assistant has closed."""
    talk = talk_with(
        {"specialists": [TECHNICAL, GENERAL]},
        routing=[routes(TECHNICAL), routes(GENERAL)],
        technical_support=[hands_back(BILLING)],
        general_support=[answers("So.")],
    )

    assert (await talk.say("What is this fee?"))["specialist"] == GENERAL


async def test_with_nobody_on_offer_a_human_answers():
    """As when no specialist can be reached; nobody is asked, the router neither."""
    result = await talk_with({"specialists": []}).say("How do I change my PIN?")

    assert result["escalation"]["reason"] == "specialist_unreachable"
    assert result["degraded"] == []


async def test_a_refund_is_prepared_only_where_billing_is_on_offer():
    """Else it goes to a human, as any refund without a desk for it."""
    result = await talk_with({"specialists": [GENERAL]}).say(REFUND)

    assert result["escalation"]["reason"] == "refund_requested"


async def test_the_breakers_of_others_are_not_this_assistants_matter():
    """Only a closed desk that it would have offered makes its answer a lesser one."""
    talk = talk_with({"specialists": [GENERAL]}, routing=[routes(GENERAL)], general_support=[answers("Hello!")])
    talk.cast.policies.breaker(f"specialist:{BILLING}").isolate()

    assert (await talk.say("hi"))["degraded"] == []


@pytest.mark.parametrize(
    ("locale", "customer", "language"), [("es", {}, "es"), ("es", {"locale": "en-GB"}, "en"), (None, {}, "en"), ("pt", {}, "en")]
)
async def test_the_locale_counts_where_nothing_else_tells(locale, customer, language):
    """A number says nothing; what the customer is known to speak counts more."""
    talk = talk_with({"locale": locale, "specialists": []})

    await talk.say("12345", **customer)

    assert (await talk.state())["language"] == language


async def test_the_language_of_a_message_counts_more_than_the_assistants():
    """And the conversation's does from then on."""
    talk = talk_with({"locale": "es", "specialists": []})

    await talk.say("Where is my parcel?")
    first = (await talk.state())["language"]
    await talk.say("12345")

    assert (first, (await talk.state())["language"]) == ("en", "en")


@pytest.mark.parametrize(("answer_at", "is_answered"), [(0.7, True), (1.0, False)])
async def test_what_stands_in_for_a_specialist_must_be_sure_enough_for_the_assistant(answer_at, is_answered):
    """The help centre's word is no better than a specialist's would have been."""
    talk = talk_with({"answer_at": answer_at, "specialists": [GENERAL]})
    talk.cast.policies.breaker(f"specialist:{GENERAL}").isolate()

    result = await talk.say("How do I change my PIN?")

    assert (result["answer"].startswith("Our assistant is not available"), result["escalation"] is None) == (is_answered, is_answered)


async def test_a_state_that_is_written_by_hand_is_judged_as_usual():
    """It belongs to no run, so there are no thresholds of one."""
    graph = build_supervisor(Cast({}).specialists).compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    draft = Draft(id="m", text="so", specialist=BILLING, confidence=0.75, sources=[])

    await graph.aupdate_state(config, {"draft": draft}, as_node=BILLING)

    assert (await graph.aget_state(config)).next == ("respond",)


def test_without_a_context_everything_is_as_usual():
    """The defaults are the policy's own."""
    usual = SupervisorConfiguration()

    assert usual.thresholds == Thresholds() == Thresholds(0.7, 0.3)
    assert usual.allows("anybody")
