"""What the technical support specialist is, and how it behaves."""

from agents.models.scripted import calls
from agents.specialists.technical_support import SPEC
from agents.tools.base import Effect


def test_it_reads_and_never_changes_anything():
    """It looks things up; nothing it can call has an effect."""
    assert {tool.effect for tool in SPEC.tools} == {Effect.READ}
    assert [tool.name for tool in SPEC.tools] == ["search_help_centre", "service_status", "get_customer"]


def test_money_and_orders_are_not_its_own():
    """Fees, invoices and deliveries are handed back, fraud is not even handed back but escalated."""
    scope = " ".join(SPEC.out_of_scope)

    assert "fees" in scope
    assert "orders" in scope
    assert "lost or stolen" in SPEC.escalate_when


def test_it_is_told_to_ground_and_to_decline():
    """The prompt names the control functions and forbids answering from the nearest article."""
    assert all(name in SPEC.prompt for name in ("conclude", "hand_back", "call_human", "nearest article"))
    assert len(SPEC.prompt.split()) <= 250


def test_it_has_fifteen_seconds():
    """Long enough for a search and an answer, short enough for a chat."""
    assert SPEC.timeout == 15.0


async def test_answers_with_the_article_it_rests_on(run_specialist):
    """A search, then the answer with its source."""
    answer = calls(("conclude", {"confidence": 0.9, "sources": ["activate-card"]}), text="Open the app and tap Activate.")

    result = await run_specialist(
        "technical_support",
        user="How do I activate my card?",
        model=[calls(("search_help_centre", {"query": "How do I activate my card?"})), answer],
    )

    assert result.sources == ("activate-card",)
    assert "activate-card" in [article["id"] for article in result.tool_uses[0].result["articles"]]


async def test_asks_one_question_when_a_detail_decides(run_specialist):
    """A question back is an answer, and one that nothing grounds."""
    result = await run_specialist("technical_support", user="It does not work", model=["What does not work, the card or the app?"])

    assert result.answer.text == "What does not work, the card or the app?"
    assert result.confidence < 0.7


async def test_hands_back_a_question_about_fees(run_specialist):
    """The supervisor is told why, and whose it may be."""
    model = [calls(("hand_back", {"reason": "a question about a fee", "suggestion": "billing_support"}))]

    result = await run_specialist("technical_support", user="Why was I charged 2 euros?", model=model)

    assert (result.hand_back.reason, result.hand_back.suggestion) == ("a question about a fee", "billing_support")
    assert result.answer is None


async def test_is_not_sure_of_what_no_article_covers(run_specialist):
    """A search that finds nothing grounds nothing, so an answer without a conclusion is not let out."""
    model = [calls(("search_help_centre", {"query": "What is the capital of Peru?"})), "It is Lima."]

    result = await run_specialist("technical_support", user="What is the capital of Peru?", model=model)

    assert result.tool_uses[0].result == {"articles": []}
    assert result.confidence < 0.7
