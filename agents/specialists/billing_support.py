"""Billing support: money that moved, should have moved, or has to be paid."""

from agents.spec import COMPLEX, AgentSpec, load_prompt
from agents.tools.find_order import find_order
from agents.tools.get_customer import get_customer
from agents.tools.list_invoices import list_invoices
from agents.tools.open_refund_request import open_refund_request
from agents.tools.search_help_centre import search_help_centre
from agents.tools.service_status import service_status

SPEC = AgentSpec(
    name="billing_support",
    description="Invoices, fees and charges, exchange rates, pending or failed payments, top-ups and transfers, refunds.",
    prompt=load_prompt("billing_support"),
    tools=(search_help_centre, list_invoices, find_order, service_status, get_customer, open_refund_request),
    categories=(
        "invoices and payment methods",
        "fees and charges",
        "exchange rates",
        "pending, reverted or duplicate payments, top-ups and withdrawals",
        "transfers that have not arrived",
        "direct debits",
        "refund rules and refund requests",
        "interest",
    ),
    out_of_scope=("cards, PINs and sign-in that do not work", "limits, countries and currencies", "delivery of orders"),
    escalate_when=(
        "the customer does not recognise a payment, disputes an amount, wants to stop a transfer or to close the account, "
        "or wants a refund without an order number"
    ),
    timeout=COMPLEX,
    max_steps=6,
)
