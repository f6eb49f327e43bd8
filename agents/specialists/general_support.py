"""General support: what the company offers, orders and deliveries, and small talk."""

from agents.spec import QUICK, AgentSpec, load_prompt
from agents.tools.find_order import find_order
from agents.tools.get_customer import get_customer
from agents.tools.search_help_centre import search_help_centre
from agents.tools.service_status import service_status

SPEC = AgentSpec(
    name="general_support",
    description="Products, cards on offer, limits, countries and currencies, orders and deliveries, greetings, all else.",
    prompt=load_prompt("general_support"),
    tools=(search_help_centre, find_order, get_customer, service_status),
    categories=(
        "ordering and receiving a card",
        "virtual, disposable and spare cards",
        "supported countries, currencies and limits",
        "why identity and source of funds are checked",
        "placing, changing and tracking orders",
        "delivery options and addresses",
        "newsletter, reviews and rewards",
        "opening hours and ways to reach us",
        "greetings and questions about the assistant",
    ),
    out_of_scope=("fees, charges and invoices", "cards and apps that do not work", "closing an account"),
    escalate_when="the customer complains, asks for a person, wants to cancel or to be refunded, or an order is over five days late",
    timeout=QUICK,
    max_steps=6,
)
