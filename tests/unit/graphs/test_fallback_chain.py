"""What a customer gets when models and specialists fail, step by step; each step can be seen in the result and in the trace."""

from collections.abc import Sequence

import pytest

from agents.errors import ModelUnavailable, OutputInvalid
from agents.models.adapter import LangChainModel
from agents.models.offline import OFFLINE, OfflineChatModel
from agents.models.scripted import Line, calls, scripted_model
from graphs.routing import ANSWER_AT
from tests.support.cast import Cast
from tests.support.conversation import BILLING, TECHNICAL, Conversation, answers, routes

COVERED, UNCOVERED = "How do I change my PIN?", "Which colour is the sky on Mars?"
OUT = ModelUnavailable("500")
SEARCHED = calls(("search_help_centre", {"query": "change pin"}))


def talk(*technical: Line, routing: Sequence[Line] = (routes(TECHNICAL),)) -> Conversation:
    return Conversation(routing=list(routing), technical_support=list(technical))


def by_rules(*before: Line) -> Conversation:
    """A conversation whose routing model says this, and then rules decide, as they do where a provider is configured."""
    conversation = Conversation(technical_support=[answers("So.")])
    rules = LangChainModel(OfflineChatModel(role="routing"), name=OFFLINE, provider=OFFLINE)
    chains = {"routing": (scripted_model(*before, name="router"), rules)}
    conversation.cast = Cast({"technical_support": [answers("So.")]}, chains=chains)
    return conversation


def spans(conversation: Conversation, name: str) -> list[dict]:
    return [told for _, span, told in conversation.cast.tracer.spans if span == name]


@pytest.mark.parametrize(("failure", "why"), [(OUT, "model_unavailable"), (routes("poetry_support"), "model_output_invalid")])
async def test_rules_route_when_no_model_does(failure, why):
    """The customer is answered, and the result says that a model was out and that rules decided instead."""
    conversation = by_rules(failure)

    result = await conversation.say(COVERED)

    assert (result["answer"], result["escalation"]) == ("So.", None)
    assert result["degraded"] == [{"what": "model:scripted/router", "why": why}, {"what": "routing_by_rules", "why": why}]
    assert spans(conversation, "model:routing")[0]["metadata"]["degraded"] == [f"model:scripted/router: {why}"]


async def test_rules_that_want_a_human_get_one():
    """They are a way to the right desk, not a way round the policy."""
    result = await by_rules(OUT).say("Somebody has stolen my phone and my card")

    assert result["escalation"]["reason"] == "human_chosen"
    assert result["degraded"][-1] == {"what": "routing_by_rules", "why": "model_unavailable"}


async def test_the_same_question_gets_the_earlier_answer_when_the_specialist_fails():
    """Asked by another customer of the same kind, in a conversation of its own."""
    conversation = talk(SEARCHED, answers("In the app.", 0.9, "change-pin"), OUT)
    assert (await conversation.say(COVERED))["degraded"] == []
    conversation.new_thread()

    result = await conversation.say("how do I change my pin")

    assert (result["answer"], result["sources"], result["confidence"]) == ("In the app.", ["change-pin"], 0.9)
    assert result["escalation"] is None
    assert result["degraded"] == [
        {"what": "specialist:technical_support", "why": "model_unavailable"},
        {"what": "cached_answer", "why": "model_unavailable"},
    ]
    assert spans(conversation, "understudy") == [{"output": "In the app.", "metadata": {"answered": "cached_answer"}}]


async def test_the_help_centre_answers_when_the_specialist_fails():
    """With an honest word in front, its source, and the whole way in `degraded`."""
    conversation = talk(OUT)

    result = await conversation.say(COVERED)

    assert result["answer"].startswith("Our assistant is not available right now.")
    assert (result["sources"], result["specialist"], result["escalation"]) == (["change-pin"], TECHNICAL, None)
    assert result["confidence"] >= ANSWER_AT
    assert [entry["what"] for entry in result["degraded"]] == ["specialist:technical_support", "help_centre_answer"]
    assert await conversation.path() == ["supervise", TECHNICAL, "respond"]
    assert [message.text for message in result["messages"]] == [COVERED, result["answer"]]


async def test_a_human_answers_what_nothing_else_can():
    """With everything that was tried."""
    result = await talk(OUT).say(UNCOVERED)

    assert result["escalation"]["reason"] == "specialist_unreachable"
    assert [visit["outcome"] for visit in result["escalation"]["context"]["tried"]] == ["failed"]
    assert result["degraded"] == [{"what": "specialist:technical_support", "why": "model_unavailable"}]


async def test_a_question_about_ones_own_things_is_not_answered_by_an_article():
    """Nor when the specialist has begun to look into the customer's records."""
    looked = calls(("get_customer", {}))
    conversation = Conversation(routing=[routes(TECHNICAL)], technical_support=[looked, OUT])

    result = await conversation.say(COVERED, id="C-1001")

    assert result["escalation"]["reason"] == "specialist_unreachable"
    assert [finding["tool"] for finding in result["escalation"]["context"]["found"]] == ["get_customer"]


async def test_an_answer_that_was_not_good_enough_is_not_given_to_others():
    """Neither an unsure one nor one that rests on a customer's own records."""
    unsure = Conversation(routing=[routes(TECHNICAL)], technical_support=[SEARCHED, answers("Perhaps.", 0.2)])
    own = Conversation(routing=[routes(BILLING)], billing_support=[calls(("list_invoices", {})), answers("Two.", 0.9)])

    await unsure.say(COVERED)
    await own.say("Which invoices are open?", id="C-1001")

    assert (unsure.cast.answers.kept, own.cast.answers.kept) == ({}, {})


@pytest.mark.parametrize("failure", [OutputInvalid("refused", "the model would not answer"), OUT, SEARCHED])
async def test_whatever_the_failure_the_customer_is_answered(failure):
    """A refusal, an outage, and a specialist that goes round in circles."""
    result = await talk(failure).say(COVERED)

    assert result["escalation"] is None
    assert result["degraded"][-1]["what"] == "help_centre_answer"


async def test_what_was_paid_for_nothing_is_counted():
    """Unusable answers of the specialist's model cost tokens too."""
    conversation = Conversation(routing=[routes(TECHNICAL), "no idea"], technical_support=[answers("So.")])
    first = (await conversation.say(COVERED))["usage"]["output_tokens"]
    conversation.new_thread()

    result = await conversation.say(COVERED)

    assert result["escalation"]["reason"] == "routing_invalid"
    assert (first, result["usage"]["output_tokens"]) == (len(routes(TECHNICAL).split()) + 1, 4)
