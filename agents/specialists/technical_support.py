"""Technical support: the app, access to the account, and cards that do not do what they should."""

from agents.spec import COMPLEX, AgentSpec, load_prompt
from agents.tools.get_customer import get_customer
from agents.tools.search_help_centre import search_help_centre
from agents.tools.service_status import service_status

SPEC = AgentSpec(
    name="technical_support",
    description="App, sign-in, PIN and passcode, identity check, account data and settings; cards that do not work.",
    prompt=load_prompt("technical_support"),
    tools=(search_help_centre, service_status, get_customer),
    categories=(
        "activating or linking a card",
        "card, contactless or virtual card not working",
        "PIN, passcode and password",
        "identity verification steps",
        "Apple Pay and Google Pay",
        "creating, editing or switching an account",
        "app settings and devices",
    ),
    out_of_scope=("fees, charges and invoices", "orders and deliveries", "lost or stolen cards and fraud"),
    escalate_when=(
        "a card or phone is lost or stolen, somebody else may have access to the account, the customer wants to close it, "
        "or has tried every step of the article in vain"
    ),
    timeout=COMPLEX,
    max_steps=6,
)
