"""What becomes of a message: the answer, the second look, or the human, with scripted models behind the real runner."""

import pytest

from agents.errors import ModelRejectedRequest, ModelUnavailable
from agents.models.scripted import calls
from tests.support.conversation import BILLING, GENERAL, TECHNICAL, Conversation, answers, hands_back, routes


async def test_a_sure_answer_goes_to_the_customer():
    """The specialist's words, its name, its confidence and its sources; nothing else."""
    talk = Conversation(routing=[routes(TECHNICAL)], technical_support=[answers("Tap Activate.", 0.7, "activate-card")])

    result = await talk.say("How do I activate my card?")

    assert (result["answer"], result["specialist"], result["confidence"]) == ("Tap Activate.", TECHNICAL, 0.7)
    assert result["sources"] == ["activate-card"]
    assert (result["escalation"], result["degraded"]) == (None, [])
    assert [(m.type, m.name, m.text) for m in result["messages"]] == [
        ("human", None, "How do I activate my card?"),
        ("ai", TECHNICAL, "Tap Activate."),
    ]
    assert await talk.path() == ["supervise", TECHNICAL, "respond"]


async def test_the_result_holds_what_is_promised_and_nothing_else():
    """The output of the graph as it is documented."""
    talk = Conversation(routing=[routes(TECHNICAL)], technical_support=[answers("So.")])

    result = await talk.say("Well?")

    assert set(result) == {"messages", "answer", "specialist", "confidence", "sources", "escalation", "degraded", "usage"}


async def test_the_cost_of_every_model_is_in_the_result():
    """Routing, drafts, critique and second draft."""
    talk = Conversation(
        routing=[routes(TECHNICAL)], technical_support=[answers("one two", 0.5), answers("three", 0.8)], reasoning=["four five six"]
    )

    result = await talk.say("Well?")

    assert result["usage"]["output_tokens"] == len(routes(TECHNICAL).split()) + 2 + 3 + 1
    assert result["usage"]["cost_usd"] == 0.0


async def test_a_poor_draft_goes_to_a_human_with_the_whole_context():
    """What was asked, tried and found, the draft, and why it stopped; the customer is told that a person takes over."""
    talk = Conversation(
        routing=[routes(BILLING)],
        billing_support=[calls(("list_invoices", {"limit": 1})), answers("No idea.", 0.29)],
    )

    result = await talk.say("Why this invoice?", id="C-1001", locale="en-GB")

    assert result["escalation"]["reason"] == "low_confidence"
    context = result["escalation"]["context"]
    assert context["question"] == "Why this invoice?"
    assert context["conversation"][0] == {"from": "human", "text": "Why this invoice?"}
    assert context["customer"] == {"id": "C-1001", "tier": "standard", "locale": "en-GB"}
    assert context["language"] == "en"
    assert context["decision"]["specialist"] == BILLING
    assert context["tried"] == [{"specialist": BILLING, "outcome": "answered", "why": "confidence 0.29"}]
    assert [(found["tool"], found["arguments"], found["error"]) for found in context["found"]] == [("list_invoices", {"limit": 1}, None)]
    assert len(context["found"][0]["result"]["invoices"]) == 1
    assert context["draft"]["text"] == "No idea."
    assert context["why"] == "billing_support is not sure enough of an answer."
    assert result["specialist"] is None
    assert "person" in result["answer"]
    assert result["messages"][-1].text == result["answer"]


async def test_a_middling_draft_is_reflected_on_once():
    """The specialist sees its draft and the critique; the critic sees question, draft and findings."""
    talk = Conversation(
        routing=[routes(TECHNICAL)],
        technical_support=[calls(("service_status", {})), answers("Try again.", 0.5), answers("Update the app first.", 0.5)],
        reasoning=["It lacks the first step."],
    )

    result = await talk.say("The app crashes")

    assert (result["answer"], result["escalation"]) == ("Update the app first.", None)
    assert await talk.path() == ["supervise", TECHNICAL, "reflect", TECHNICAL, "respond"]
    second = talk.cast.instructions(TECHNICAL)
    assert "Your draft: Try again." in second
    assert "Critique of the draft: It lacks the first step." in second
    critic = talk.cast.prompts("reasoning")[0][-1].text
    assert all(part in critic for part in ("The app crashes", "Try again.", "service_status"))


async def test_a_second_look_may_end_in_a_hand_back():
    """The first draft is not let out by it, and its critique is not the next specialist's."""
    talk = Conversation(
        routing=[routes(TECHNICAL)],
        technical_support=[answers("Perhaps.", 0.6), hands_back(BILLING)],
        reasoning=["It is about money."],
        billing_support=[answers("2 euros.", 0.6)],
    )

    result = await talk.say("What is this?")

    assert (result["answer"], result["specialist"]) == ("2 euros.", BILLING)
    assert "Critique" not in talk.cast.instructions(BILLING)
    assert await talk.path() == ["supervise", TECHNICAL, "reflect", TECHNICAL, "supervise", BILLING, "respond"]


async def test_a_draft_that_stays_poor_after_reflection_goes_to_a_human():
    """Below 0.5 the second look decides, and there is no third."""
    talk = Conversation(
        routing=[routes(TECHNICAL)], technical_support=[answers("Perhaps.", 0.6), answers("Perhaps not.", 0.49)], reasoning=["Thin."]
    )

    result = await talk.say("The app crashes")

    assert result["escalation"]["reason"] == "low_confidence"
    assert len(talk.cast.prompts("reasoning")) == 1


@pytest.mark.parametrize(("confidence", "is_answered"), [(0.5, True), (0.49, False)])
async def test_without_a_critic_the_draft_is_judged_as_it_stands(confidence, is_answered):
    """The specialist is not asked again without news, and the result says what was missing."""
    talk = Conversation(
        routing=[routes(TECHNICAL)], technical_support=[answers("Perhaps.", confidence)], reasoning=[ModelRejectedRequest("401")]
    )

    result = await talk.say("The app crashes")

    assert (result["escalation"] is None) is is_answered
    assert result["degraded"] == [{"what": "reflection", "why": "model_rejected_request"}]
    assert len(talk.cast.prompts(TECHNICAL)) == 1


async def test_a_specialist_that_fails_is_a_matter_for_a_human():
    """What it had found, and what it had cost, is not lost with it."""
    talk = Conversation(
        routing=[routes(TECHNICAL)], technical_support=[calls(("service_status", {}), text="one two"), ModelRejectedRequest("401")]
    )

    result = await talk.say("The app crashes")

    escalation = result["escalation"]
    assert escalation["reason"] == "specialist_unreachable"
    assert escalation["context"]["tried"] == [{"specialist": TECHNICAL, "outcome": "failed", "why": "model_rejected_request"}]
    assert [found["tool"] for found in escalation["context"]["found"]] == ["service_status"]
    assert result["degraded"] == [{"what": "specialist:technical_support", "why": "model_rejected_request"}]
    assert result["usage"]["output_tokens"] == len(routes(TECHNICAL).split()) + 2
    assert "cannot give you a reliable answer" in result["answer"]


async def test_a_specialist_that_fails_after_reflection_leaves_no_answer():
    """The draft that was not good enough is not let out because the second try failed."""
    talk = Conversation(
        routing=[routes(TECHNICAL)], technical_support=[answers("Perhaps.", 0.6), ModelRejectedRequest("401")], reasoning=["Thin."]
    )

    result = await talk.say("The app crashes")

    assert (result["escalation"]["reason"], result["specialist"]) == ("specialist_unreachable", None)


async def test_without_a_routing_model_a_human_takes_over():
    """After the retries of the one pipeline, and honestly."""
    talk = Conversation(routing=[ModelUnavailable("500")])

    result = await talk.say("¿Dónde está mi pedido?")

    assert result["escalation"]["reason"] == "model_unavailable"
    assert result["degraded"] == [{"what": "routing", "why": "model_unavailable"}]
    assert len(talk.cast.prompts("routing")) == 3
    assert result["answer"].startswith("Ahora mismo no puedo")


@pytest.mark.parametrize(
    ("text", "tier", "reason"),
    [
        ("quiero cancelar mi cuenta", "standard", "cancellation_requested"),
        ("I want a refund", "standard", "refund_requested"),
        ("let me talk to a human", "vip", "vip_asked_for_human"),
        ("this is unacceptable", "vip", "vip_is_angry"),
    ],
)
async def test_rules_need_no_model(text, tier, reason):
    """A human takes over although no model was asked."""
    result = await Conversation().say(text, tier=tier)

    assert result["escalation"]["reason"] == reason
    assert result["escalation"]["context"]["question"] == text
    assert result["usage"]["input_tokens"] == 0


@pytest.mark.parametrize("text", ["let me talk to a human", "this is unacceptable"])
async def test_the_mood_of_a_standard_customer_is_weighed_by_the_model(text):
    """VIP rules are for VIPs."""
    talk = Conversation(routing=[routes(GENERAL)], general_support=[answers("What happened?")])

    assert (await talk.say(text))["answer"] == "What happened?"


async def test_the_order_of_a_refund_may_have_been_named_earlier():
    """The conversation is what identifies it."""
    talk = Conversation(
        routing=[routes(GENERAL)], general_support=[answers("It comes on Monday.")], billing_support=[answers("I have prepared it.")]
    )
    await talk.say("Where is AZ-10234?")

    assert (await talk.say("Then I want my money back"))["specialist"] == BILLING


async def test_a_refund_goes_to_a_human_when_its_desk_is_closed():
    """An order does not help when nobody can prepare it."""
    talk = Conversation()
    talk.cast.policies.breaker(f"specialist:{BILLING}").isolate()

    assert (await talk.say("refund AZ-10234"))["escalation"]["reason"] == "refund_requested"


async def test_a_refund_that_was_handed_back_does_not_come_round_again():
    """Rules are for the first decision of a turn; afterwards the router decides."""
    talk = Conversation(routing=[routes("human")], billing_support=[hands_back()])

    result = await talk.say("refund AZ-10234")

    assert result["escalation"]["reason"] == "human_chosen"
    assert len(talk.cast.prompts(BILLING)) == 1
