"""Who is asked: the router's decisions, hand-backs, closed desks, and the end of every round."""

import pytest

from agents.models.scripted import calls, says
from graphs.routing import MAX_STILL_HOPS
from tests.support.conversation import BILLING, GENERAL, TECHNICAL, Conversation, answers, hands_back, routes


@pytest.mark.parametrize(
    ("nonsense", "fault"),
    [
        ("I think billing.", "Invalid JSON"),
        (says({"specialist": BILLING, "confidence": 7, "reason": "x"}), "confidence"),
        (says({"specialist": BILLING, "confidence": 0.9}), "reason"),
        (says({"specialist": "poetry_support", "confidence": 0.9, "reason": "x"}), "'poetry_support' is none of"),
    ],
)
async def test_a_decision_that_does_not_fit_is_asked_for_again_once(nonsense, fault):
    """With the fault in the prompt; the second answer counts."""
    talk = Conversation(routing=[nonsense, routes(BILLING)], billing_support=[answers("So it is.")])

    result = await talk.say("My invoice?")

    assert result["answer"] == "So it is."
    again = talk.cast.prompts("routing")[1][-1].text
    assert again.startswith("Your answer was not usable: ")
    assert fault in again


@pytest.mark.parametrize("nonsense", ["I think billing.", routes("poetry_support")])
async def test_a_router_that_makes_no_sense_twice_leaves_it_to_a_human(nonsense):
    """There is no third question, and what it cost is counted."""
    talk = Conversation(routing=[nonsense])

    result = await talk.say("My invoice?")

    assert result["escalation"]["reason"] == "routing_invalid"
    assert len(talk.cast.prompts("routing")) == 2
    assert result["usage"]["output_tokens"] == 2 * len(nonsense.split())


async def test_an_unsure_router_leaves_it_to_a_human():
    """Below 0.3 nobody is tried; at 0.3 somebody is."""
    unsure = Conversation(routing=[routes(BILLING, 0.29)])
    surer = Conversation(routing=[routes(BILLING, 0.3)], billing_support=[answers("So.")])

    assert (await unsure.say("Hm?"))["escalation"]["reason"] == "low_routing_confidence"
    assert (await surer.say("Hm?"))["answer"] == "So."


async def test_a_router_may_choose_a_human():
    """Its reason is the summary that the human reads."""
    result = await Conversation(routing=[routes("human")]).say("Somebody stole my phone")

    assert (result["escalation"]["reason"], result["escalation"]["summary"]) == ("human_chosen", "it is theirs")


async def test_the_router_is_told_who_there_is_and_who_asks():
    """Names in sorted order, what each is for, and the customer's tier."""
    talk = Conversation(routing=[routes(GENERAL)], general_support=[answers("Hello!")])

    await talk.say("hi", tier="vip")

    told = talk.cast.instructions("routing")
    assert told.index(f"- {BILLING}: ") < told.index(f"- {GENERAL}: ") < told.index(f"- {TECHNICAL}: ")
    assert "tier vip" in told


async def test_a_hand_back_with_a_suggestion_needs_no_second_decision():
    """The suggested specialist acts next, without a model call in between."""
    talk = Conversation(routing=[routes(TECHNICAL)], technical_support=[hands_back(BILLING)], billing_support=[answers("2 euros.")])

    result = await talk.say("What is this fee?")

    assert (result["answer"], result["specialist"]) == ("2 euros.", BILLING)
    assert len(talk.cast.prompts("routing")) == 1
    assert await talk.path() == ["supervise", TECHNICAL, "supervise", BILLING, "respond"]


@pytest.mark.parametrize("suggestion", [None, "poetry_support", TECHNICAL])
async def test_a_hand_back_without_a_usable_suggestion_is_decided_anew(suggestion):
    """The router is told who tried, and who handed back is not offered."""
    talk = Conversation(
        routing=[routes(TECHNICAL), routes(BILLING)], technical_support=[hands_back(suggestion)], billing_support=[answers("So.")]
    )

    result = await talk.say("What is this?")

    assert result["answer"] == "So."
    told = talk.cast.instructions("routing")
    assert "technical_support handed back: not mine" in told
    assert f"- {TECHNICAL}: " not in told


async def test_specialists_that_hand_a_question_round_come_to_an_end():
    """Without news a human takes over after a few visits, far from the graph's own limit."""
    talk = Conversation(
        routing=[routes(TECHNICAL), routes(GENERAL), routes(TECHNICAL)],
        technical_support=[hands_back(BILLING)],
        billing_support=[hands_back(TECHNICAL)],
        general_support=[hands_back(TECHNICAL)],
    )

    result = await talk.say("Whose is this?")

    assert result["escalation"]["reason"] == "no_progress"
    assert len(result["escalation"]["context"]["tried"]) == MAX_STILL_HOPS


async def test_specialists_that_hand_back_with_news_every_time_come_to_an_end_too():
    """The number of hops is limited whatever is found out."""
    rounds = [step for i in range(9) for step in (calls(("search_help_centre", {"query": f"fee {i}"})), hands_back())]
    names = (TECHNICAL, BILLING, GENERAL)
    talk = Conversation(routing=[routes(name) for name in names * 4], **dict.fromkeys(names, rounds))

    result = await talk.say("Whose is this?")

    assert result["escalation"]["reason"] == "hop_limit"
    assert len(result["escalation"]["context"]["found"]) == 6


async def test_a_specialist_whose_breaker_is_open_is_not_offered():
    """The next best answers, and the result says what was degraded."""
    talk = Conversation(routing=[routes(GENERAL)], general_support=[answers("Here is what I know.")])
    talk.cast.policies.breaker(f"specialist:{TECHNICAL}").isolate()

    result = await talk.say("The app crashes")

    assert result["answer"] == "Here is what I know."
    assert f"- {TECHNICAL}: " not in talk.cast.instructions("routing")
    assert result["degraded"] == [{"what": "specialist:technical_support", "why": "circuit_open"}]


async def test_a_router_that_insists_on_a_closed_desk_is_corrected():
    """Who is not offered cannot be chosen."""
    talk = Conversation(routing=[routes(TECHNICAL), routes(GENERAL)], general_support=[answers("So.")])
    talk.cast.policies.breaker(f"specialist:{TECHNICAL}").isolate()

    assert (await talk.say("The app crashes"))["specialist"] == GENERAL


async def test_a_run_whose_time_is_up_ends_with_a_human():
    """At once, and no model is asked."""
    talk = Conversation(routing=[routes(GENERAL)])
    talk.seconds = 0.0

    result = await talk.say("hi")

    assert result["escalation"]["reason"] == "model_unavailable"
    assert result["degraded"] == [{"what": "routing", "why": "deadline_exceeded"}]
    assert talk.cast.prompts("routing") == []


@pytest.mark.parametrize("question", ["Why does the app look purple?", "How do I change my PIN?"])
async def test_with_every_desk_closed_the_help_centre_answers_or_a_human_does(question):
    """No model is asked, and nobody is named who did not answer."""
    talk = Conversation()
    for name in talk.cast.specialists:
        talk.cast.policies.breaker(f"specialist:{name}").isolate()

    result = await talk.say(question)

    closed = [{"what": f"specialist:{name}", "why": "circuit_open"} for name in talk.cast.specialists]
    assert result["specialist"] is None
    if "PIN" in question:
        assert result["answer"].startswith("Our assistant is not available right now.")
        assert (result["escalation"], result["sources"]) == (None, ["change-pin"])
        assert result["degraded"] == [*closed, {"what": "help_centre_answer", "why": "circuit_open"}]
        assert result["messages"][-1].name == "supervisor"
        assert await talk.path() == ["supervise", "respond"]
    else:
        assert result["escalation"]["reason"] == "specialist_unreachable"
        assert result["degraded"] == closed
