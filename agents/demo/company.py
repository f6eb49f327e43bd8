"""Azahar, the fictional company of the demo: accounts, orders, invoices, the state of its services, its help centre."""

from __future__ import annotations

from datetime import date, datetime
from functools import cache
from importlib.resources import as_file, files
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agents.retrieval import HelpCentre

InvoiceStatus = Literal["open", "overdue", "paid"]
OrderStatus = Literal["processing", "shipped", "delivered", "cancelled", "refunded"]
Component = Literal["app", "card_payments", "top_ups", "transfers", "shop"]


def _written_in_full(order_id: object) -> object:
    if not isinstance(order_id, str):
        return order_id
    bare = order_id.strip().lstrip("#").upper()
    return f"AZ-{bare}" if bare.isdigit() else bare


OrderId = Annotated[
    str,
    BeforeValidator(_written_in_full),
    Field(pattern=r"^AZ-\d{5}$", description="Order number as the customer sees it, for example AZ-10234."),
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Card(_Record):
    """The account's physical card; `last_digits` is None until one was ordered."""

    network: Literal["visa", "mastercard"]
    state: Literal["active", "blocked", "frozen", "on_its_way", "expired", "not_ordered"]
    last_digits: str | None
    expires: str | None


class Account(_Record):
    """A customer: `label` is what the company calls the account, `locale` is BCP 47."""

    id: str
    label: str
    tier: Literal["standard", "vip"]
    locale: str
    plan: Literal["free", "plus", "business"]
    is_identity_verified: bool
    card: Card


class OrderItem(_Record):
    """One line of an order; the price is of one piece."""

    name: str
    quantity: int
    price_eur: float


class Order(_Record):
    """One order of the shop; `total_eur` is items and delivery."""

    id: str
    customer_id: str
    placed_on: date
    status: OrderStatus
    items: tuple[OrderItem, ...]
    delivery_option: Literal["standard", "express", "pickup_point"]
    delivery_eur: float
    total_eur: float
    delivery_estimate: date | None
    delivered_on: date | None


class InvoiceLine(_Record):
    """One line of an invoice."""

    description: str
    amount_eur: float


class Invoice(_Record):
    """One invoice, for a plan or for an order of the shop; `amount_eur` is the sum of its lines, taxes included."""

    id: str
    customer_id: str
    issued_on: date
    due_on: date
    status: InvoiceStatus
    amount_eur: float
    lines: tuple[InvoiceLine, ...]


class Incident(_Record):
    """What is wrong with a component, in each language of the help centre."""

    since: datetime
    summary: dict[str, str]


class ComponentStatus(_Record):
    """Whether one component works now."""

    component: Component
    status: Literal["operational", "degraded", "down"]
    incident: Incident | None = None


class Company(_Record):
    """Everything the tools can look up. A customer's records come newest first."""

    accounts: tuple[Account, ...]
    orders: tuple[Order, ...]
    invoices: tuple[Invoice, ...]
    services: tuple[ComponentStatus, ...]

    def account(self, customer_id: str | None) -> Account | None:
        """The account of this customer, if there is one."""
        return next((a for a in self.accounts if a.id == customer_id), None)

    def order(self, customer_id: str | None, order_id: str) -> Order | None:
        """The order, if it exists and is this customer's."""
        return next((o for o in self.orders if o.id == order_id and o.customer_id == customer_id), None)

    def invoices_of(self, customer_id: str, status: InvoiceStatus | None = None) -> list[Invoice]:
        """This customer's invoices, newest first; `status` leaves out all others."""
        own = (i for i in self.invoices if i.customer_id == customer_id and status in (None, i.status))
        return sorted(own, key=lambda i: (i.issued_on, i.id), reverse=True)


@cache
def company() -> Company:
    """The demo company's records, read once."""
    return Company.model_validate_json(files("agents.demo").joinpath("data.json").read_bytes())


@cache
def help_centre() -> HelpCentre:
    """The demo company's help centre, indexed once (a fraction of a second, so better before the first question)."""
    with as_file(files("agents.demo").joinpath("help_centre")) as folder:
        return HelpCentre.from_folder(folder)
