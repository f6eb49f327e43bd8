"""What the general support specialist is, and how it behaves."""

from agents.models.scripted import calls
from agents.specialists.general_support import SPEC
from agents.tools.base import Effect


def test_it_reads_and_never_changes_anything():
    """It looks things up; nothing it can call has an effect."""
    assert {tool.effect for tool in SPEC.tools} == {Effect.READ}
    assert "find_order" in {tool.name for tool in SPEC.tools}


def test_charges_and_broken_things_are_not_its_own():
    """It hands back what the other two desks know better."""
    scope = " ".join(SPEC.out_of_scope)

    assert "fees" in scope
    assert "do not work" in scope


def test_complaints_and_cancelling_go_to_a_human():
    """It does not argue with an unhappy customer."""
    assert all(word in SPEC.escalate_when for word in ("complains", "cancel", "person"))


def test_it_is_told_not_to_answer_from_general_knowledge():
    """A question about the world is declined, a greeting needs no tool."""
    assert "what you know of the world" in SPEC.prompt
    assert all(name in SPEC.prompt for name in ("conclude", "hand_back", "call_human", "nearest article"))
    assert len(SPEC.prompt.split()) <= 250


def test_it_is_a_quick_one():
    """Five seconds: a search and an answer."""
    assert SPEC.timeout == 5.0


async def test_greets_without_looking_anything_up(run_specialist):
    """Small talk is one message long."""
    hello = calls(("conclude", {"confidence": 0.9, "sources": []}), text="Hello! How can I help?")

    result = await run_specialist("general_support", user="hi", model=[hello])

    assert (result.answer.text, result.confidence, result.tool_uses) == ("Hello! How can I help?", 0.9, ())


async def test_tracks_an_order_of_the_customer(run_specialist):
    """The order's own record is what it answers from."""
    model = [calls(("find_order", {"order_id": "AZ-10234"})), "It comes on 23 November."]

    result = await run_specialist("general_support", user="Where is AZ-10234?", model=model)

    assert result.tool_uses[0].result["order"]["delivery_estimate"] == "2026-11-23"
    assert result.confidence >= 0.7


async def test_asks_for_the_number_of_the_order(run_specialist):
    """Without the number it asks instead of guessing."""
    result = await run_specialist("general_support", user="Where is my order?", model=["What is the order number?"])

    assert (result.answer.text, result.tool_uses) == ("What is the order number?", ())


async def test_hands_back_what_does_not_work(run_specialist):
    """A hand-back needs no suggestion."""
    result = await run_specialist("general_support", user="My card is declined", model=[calls(("hand_back", {"reason": "a broken card"}))])

    assert (result.hand_back.reason, result.hand_back.suggestion) == ("a broken card", None)
