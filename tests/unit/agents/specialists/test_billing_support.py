"""What the billing support specialist is, and how it behaves."""

from agents.models.scripted import calls
from agents.specialists.billing_support import SPEC
from agents.tools.base import Effect


def test_only_the_refund_request_changes_the_world():
    """It prepares refunds, which a human approves; all else reads."""
    assert {tool.name: tool.effect for tool in SPEC.tools if tool.effect is not Effect.READ} == {"open_refund_request": Effect.IRREVERSIBLE}


def test_it_can_see_invoices_orders_and_incidents():
    """Questions about money are answered from records, not only from articles."""
    assert {"search_help_centre", "list_invoices", "find_order", "service_status"} <= {tool.name for tool in SPEC.tools}


def test_a_payment_nobody_made_goes_to_a_human():
    """Unrecognised payments and refunds without an order are a human matter."""
    assert "does not recognise a payment" in SPEC.escalate_when
    assert "without an order number" in SPEC.escalate_when


def test_it_is_told_to_look_the_order_up_before_it_asks_for_a_refund():
    """The prompt keeps the order of the two calls, and the limits of every specialist."""
    assert SPEC.prompt.index("find_order") < SPEC.prompt.index("open_refund_request")
    assert all(name in SPEC.prompt for name in ("conclude", "hand_back", "call_human", "nearest article"))
    assert len(SPEC.prompt.split()) <= 250


def test_it_has_fifteen_seconds():
    """Long enough for records and an answer, short enough for a chat."""
    assert SPEC.timeout == 15.0


async def test_asks_which_order_before_it_prepares_a_refund(run_specialist):
    """Without an order number it asks one question and calls no tool."""
    result = await run_specialist("billing_support", user="I want my money back", model=["Which order is it?"])

    assert result.answer.text == "Which order is it?"
    assert result.tool_uses == ()


async def test_prepares_a_refund_and_leaves_the_yes_to_a_human(run_specialist):
    """The request comes back as an action that waits for approval; the tool has not run."""
    refund = {"order_id": "AZ-10234", "reason": "The reader does not charge."}

    result = await run_specialist(
        "billing_support",
        user="I want my money back for AZ-10234, the reader does not charge",
        model=[calls(("find_order", {"order_id": "AZ-10234"})), calls(("open_refund_request", refund))],
    )

    assert result.human.reason == "approval_required"
    assert [(call["name"], call["args"]) for call in result.human.action.message.tool_calls] == [("open_refund_request", refund)]
    assert [use.tool for use in result.tool_uses] == ["find_order"]


async def test_answers_about_invoices_from_the_records(run_specialist):
    """What the customer is told rests on the customer's own invoices."""
    answer = calls(("conclude", {"confidence": 0.9, "sources": ["INV-2026-0311"]}), text="INV-2026-0311 is paid.")

    result = await run_specialist("billing_support", user="Is invoice 0311 paid?", model=[calls(("list_invoices", {})), answer])

    assert (result.confidence, result.sources) == (0.9, ("INV-2026-0311",))
    assert "INV-2026-0311" in [invoice["id"] for invoice in result.tool_uses[0].result["invoices"]]


async def test_learns_nothing_about_the_order_of_somebody_else(run_specialist):
    """An order of another customer is as unknown as one that does not exist."""
    model = [calls(("find_order", {"order_id": "AZ-10241"}), ("find_order", {"order_id": "AZ-99999"})), "I cannot find that order."]

    result = await run_specialist("billing_support", user="Refund AZ-10241", model=model)

    assert [use.error for use in result.tool_uses] == ["tool_not_found", "tool_not_found"]
    foreign, missing = (use.result["message"] for use in result.tool_uses)
    assert foreign.replace("AZ-10241", "") == missing.replace("AZ-99999", "")


async def test_calls_a_human_for_a_payment_nobody_made(run_specialist):
    """Fraud ends its work at once."""
    result = await run_specialist(
        "billing_support", user="I never made this payment", model=[calls(("call_human", {"reason": "unrecognised payment"}))]
    )

    assert (result.human.reason, result.human.summary, result.human.action) == ("specialist_asked", "unrecognised payment", None)
