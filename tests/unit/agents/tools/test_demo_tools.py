"""The tools over the demo company: what they return, and whose data they show."""

import json

import pytest

from agents.tools.base import Effect, ToolArgumentsInvalid, ToolContext, ToolNotFound
from agents.tools.find_order import find_order
from agents.tools.get_customer import get_customer
from agents.tools.list_invoices import list_invoices
from agents.tools.open_refund_request import OrderNotRefundable, open_refund_request
from agents.tools.search_help_centre import search_help_centre
from agents.tools.service_status import service_status
from resilience.deadline import Deadline

TOOLS = (find_order, get_customer, list_invoices, open_refund_request, search_help_centre, service_status)


async def use(tool, customer_id="C-1001", language="en", key="run-1:0", **arguments):
    ctx = ToolContext(customer_id, language, "default", Deadline.after(5.0), key)
    return await tool.run(tool.parse(arguments), ctx)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_argument_is_described_to_the_model(tool):
    """Name, description and a description per argument; the customer is never an argument."""
    function = tool.schema()["function"]

    assert function["name"] == tool.name
    assert function["description"]
    properties = function["parameters"].get("properties", {})
    assert all(field.get("description") for field in properties.values())
    assert "customer_id" not in properties


def test_only_the_refund_request_changes_the_world():
    """Everything else reads, so it may be repeated."""
    assert {tool.name for tool in TOOLS if tool.effect is not Effect.READ} == {"open_refund_request"}
    assert open_refund_request.effect is Effect.IRREVERSIBLE


@pytest.mark.parametrize("written", ["AZ-10234", "az-10234", " #10234 ", "10234"])
async def test_an_order_is_found_however_its_number_is_written(written):
    """Case, hash and a missing prefix do not matter; the customer's id is not in the result."""
    result = await use(find_order, order_id=written)

    assert (result["order"]["id"], result["order"]["status"]) == ("AZ-10234", "shipped")
    assert "customer_id" not in result["order"]


@pytest.mark.parametrize("tool", [find_order, open_refund_request], ids=lambda tool: tool.name)
async def test_somebody_elses_order_looks_like_one_that_does_not_exist(tool):
    """The same error, the same words, so nothing is learnt about other customers; nor by somebody unknown."""
    more = {"reason": "it is broken"} if tool is open_refund_request else {}
    texts = set()
    for customer_id, order_id in (("C-1001", "AZ-10241"), ("C-1001", "AZ-99999"), ("C-9999", "AZ-10241"), (None, "AZ-10241")):
        with pytest.raises(ToolNotFound) as caught:
            await use(tool, customer_id, order_id=order_id, **more)
        texts.add(str(caught.value).replace(order_id, "…"))

    assert len(texts) == 1


def test_a_number_that_is_no_order_number_is_refused_with_its_field():
    """The model learns which argument was wrong."""
    with pytest.raises(ToolArgumentsInvalid, match="order_id"):
        find_order.parse({"order_id": "INV-2026-0311"})


@pytest.mark.parametrize("customer_id", ["C-9999", None])
@pytest.mark.parametrize("tool", [get_customer, list_invoices], ids=lambda tool: tool.name)
async def test_an_unknown_customer_has_no_records(tool, customer_id):
    """Nobody identified and nobody known are not told apart."""
    with pytest.raises(ToolNotFound):
        await use(tool, customer_id)


async def test_the_customer_is_the_one_of_the_conversation():
    """The account comes from the context."""
    assert (await use(get_customer, "C-1002"))["customer"]["tier"] == "vip"


async def test_invoices_come_newest_first_up_to_the_limit_with_the_total():
    """The model can say how many more there are."""
    result = await use(list_invoices, limit=2)

    assert [invoice["id"] for invoice in result["invoices"]] == ["INV-2026-0342", "INV-2026-0311"]
    assert result["total"] == 4


async def test_invoices_can_be_narrowed_to_a_status():
    """Only the open ones, for "what do I owe"."""
    result = await use(list_invoices, status="open")

    assert {invoice["status"] for invoice in result["invoices"]} == {"open"}


async def test_the_incident_is_told_in_the_customers_language():
    """The summary follows the context's language; other services are left out when one is asked for."""
    spanish = await use(service_status, language="es", component="top_ups")
    english = await use(service_status, component="top_ups")

    assert [service["component"] for service in spanish["services"]] == ["top_ups"]
    assert spanish["services"][0]["incident"]["summary"].startswith("Las recargas")
    assert english["services"][0]["incident"]["summary"].startswith("Top-ups")


async def test_the_same_refund_request_sent_twice_is_one_request():
    """The request's id follows the idempotency key, and another key makes another request."""
    first, again, other = [
        await use(open_refund_request, key=key, order_id="AZ-10198", reason="arrived damaged") for key in ("a:0", "a:0", "b:0")
    ]

    assert first == again
    assert first["request_id"] != other["request_id"]
    assert (first["status"], first["amount_eur"]) == ("submitted", 17.9)


async def test_an_order_that_was_paid_back_already_cannot_be_refunded():
    """A typed error that says so."""
    with pytest.raises(OrderNotRefundable, match="already refunded"):
        await use(open_refund_request, order_id="AZ-10120", reason="it is broken")


async def test_the_search_returns_articles_with_what_an_answer_needs():
    """Id, title, text and score; at most three."""
    articles = (await use(search_help_centre, query="when will my card arrive?"))["articles"]

    assert articles[0]["id"] == "card-delivery"
    assert set(articles[0]) == {"id", "title", "text", "score"}
    assert len(articles) <= 3


async def test_the_search_returns_an_empty_list_when_nothing_covers_the_question():
    """Not an error: the specialist says so and offers a human."""
    assert await use(search_help_centre, query="what is the capital of Peru") == {"articles": []}


async def test_every_result_is_plain_json():
    """Results are checkpointed, so they survive `json` unchanged."""
    results = [
        await use(find_order, order_id="AZ-10198"),
        await use(get_customer),
        await use(list_invoices),
        await use(open_refund_request, order_id="AZ-10198", reason="arrived damaged"),
        await use(search_help_centre, query="transfer fee"),
        await use(service_status),
    ]

    assert json.loads(json.dumps(results)) == results
