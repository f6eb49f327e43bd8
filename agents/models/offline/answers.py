"""Answers put together from what the tools returned; nothing in them comes from anywhere else."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from agents.language import Language
from agents.models.offline.conversation import Turn
from agents.models.offline.phrases import PHRASES
from agents.models.offline.words import content_stems

SURE, KNOWN, UNSURE, UNCOVERED = 0.9, 0.8, 0.5, 0.15
_WORTH_ANOTHER = 2
"""How many words of the question a second paragraph must add."""
_REFUSED = '{"error": "refused_by_human"'
_LIST_LINE = re.compile(r"^\d+\. (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the customer reads, how sure it is (0 to 1), and the ids it rests on."""

    text: str
    confidence: float
    sources: tuple[str, ...] = ()


def small_talk(kind: str, language: Language) -> Answer:
    """The answer to a greeting, thanks, a goodbye, or the question whether this is a bot."""
    return Answer(PHRASES[language][kind], SURE)


def no_rules(language: Language) -> Answer:
    """The answer of a specialist that has no tool the rules could use."""
    return Answer(PHRASES[language]["no_rules"], UNCOVERED)


def is_refundable(found: dict[str, Any]) -> bool:
    """Whether anything of the order that `find_order` returned is left to be paid back."""
    return found.get("order", {}).get("status") not in ("cancelled", "refunded")


def one_of(invoices: list[dict[str, Any]], which: int, language: Language) -> Answer:
    """One invoice of a list that the customer has seen; `which` counts from 0, -1 is the last."""
    say = PHRASES[language]
    if which >= len(invoices):
        return Answer(_offline(say["only_so_many"].format(count=len(invoices)), language), KNOWN)
    invoice = invoices[which]
    lines = "; ".join(line["description"] for line in invoice.get("lines", ()))
    text = say["one_invoice"].format(line=_invoice(invoice, language)) + (say["for"].format(lines=lines) if lines else "")
    return Answer(_offline(text, language), SURE, (str(invoice.get("id")),))


def one_line_of(shown: str, which: int, language: Language) -> Answer | None:
    """The same out of the answer that showed the list, where the records behind it are no longer in the conversation."""
    lines = _LIST_LINE.findall(shown)
    if not lines:
        return None
    say = PHRASES[language]
    if which >= len(lines):
        return Answer(_offline(say["only_so_many"].format(count=len(lines)), language), KNOWN)
    return Answer(_offline(say["one_invoice"].format(line=lines[which]), language), KNOWN, tuple(re.findall(r"\bINV-[\d-]+", lines[which])))


def compose(turn: Turn) -> Answer:
    """The answer to a question whose tools have all answered."""
    failed = next((outcome.error for outcome in turn.outcomes if outcome.tool == "open_refund_request" and outcome.error), None)
    if failed and failed.startswith(_REFUSED):
        return _refused(turn, failed)
    if failed:
        return Answer(_offline(PHRASES[turn.language]["refund_not_opened"], turn.language), UNCOVERED)
    parts = [part for part in (_refund(turn), _order(turn), _invoices(turn), _account(turn), _services(turn), article(turn)) if part]
    if not parts:
        return _nothing(turn)
    text = "\n\n".join(part.text for part in parts)
    sources = tuple(source for part in parts for source in part.sources)
    return Answer(_offline(text, turn.language), max(part.confidence for part in parts), sources)


def _nothing(turn: Turn) -> Answer:
    say = PHRASES[turn.language]
    missing = next((o for o in turn.outcomes if o.error and "tool_not_found" in o.error), None)
    if missing:
        return Answer(_offline(say["not_found"], turn.language), UNSURE if missing.tool == "find_order" else UNCOVERED)
    if any(o.error for o in turn.outcomes):
        return Answer(_offline(say["tool_failed"], turn.language), UNCOVERED)
    return Answer(_offline(say["uncovered"], turn.language), UNCOVERED)


def _refused(turn: Turn, told: str) -> Answer:
    """What a human decided is final, so there is nothing to doubt."""
    say = PHRASES[turn.language]
    text, comment = say["refund_refused"].format(order=turn.refunded_order), json.loads(told)["human"]["comment"]
    return Answer(_offline(text + (say["comment"].format(comment=comment) if comment else ""), turn.language), SURE)


def _refund(turn: Turn) -> Answer | None:
    if request := turn.result("open_refund_request"):
        text = PHRASES[turn.language]["refund_opened"].format(id=request.get("request_id"), order=request.get("order_id"))
        return Answer(text, SURE, (str(request.get("request_id")),))
    return None


def _order(turn: Turn) -> Answer | None:
    order = (turn.result("find_order") or {}).get("order")
    if not order:
        return None
    say = PHRASES[turn.language]
    items = ", ".join(f"{item['quantity']} × {item['name']}" for item in order.get("items", ()))
    text = say["order"].format(
        id=order.get("id"),
        placed=order.get("placed_on"),
        status=_status(order, turn.language),
        items=items,
        total=_money(order.get("total_eur")),
    )
    if order.get("delivered_on"):
        text += " " + say["delivered_on"].format(date=order["delivered_on"])
    elif order.get("delivery_estimate"):
        text += " " + say["delivery_estimate"].format(date=order["delivery_estimate"])
    return Answer(text, SURE, (str(order.get("id")),))


def _invoices(turn: Turn) -> Answer | None:
    listed = turn.result("list_invoices")
    if listed is None:
        return None
    say = PHRASES[turn.language]
    invoices = listed.get("invoices") or []
    if not invoices:
        return Answer(say["no_invoices"], KNOWN)
    lines = "\n".join(f"{number}. {_invoice(invoice, turn.language)}" for number, invoice in enumerate(invoices, 1))
    return Answer(f"{say['invoices']}\n{lines}", SURE, tuple(str(invoice.get("id")) for invoice in invoices))


def _account(turn: Turn) -> Answer | None:
    account = (turn.result("get_customer") or {}).get("customer")
    if not account:
        return None
    say = PHRASES[turn.language]
    card = (account.get("card") or {}).get("state", "")
    verified = say["yes"] if account.get("is_identity_verified") else say["no"]
    return Answer(
        say["account"].format(plan=account.get("plan"), card=say.get(f"card_{card}", card), verified=verified),
        SURE,
        (str(account.get("id")),),
    )


def _services(turn: Turn) -> Answer | None:
    services = (turn.result("service_status") or {}).get("services")
    if not services:
        return None
    say = PHRASES[turn.language]
    ill = [service for service in services if service.get("status") != "operational"]
    if ill:
        told = [
            f"{say.get(s['component'], s['component'])}: {(s.get('incident') or {}).get('summary') or say.get(s['status'], s['status'])}"
            for s in ill
        ]
        return Answer(say["incident"].format(told=" ".join(told)), KNOWN, tuple(f"status:{s['component']}" for s in ill))
    if (turn.result("search_help_centre") or {}).get("articles"):
        return None
    # That all is well explains nothing by itself.
    names = ", ".join(say.get(service["component"], service["component"]) for service in services)
    return Answer(say["all_well"].format(names=names), UNCOVERED)


def article(turn: Turn) -> Answer | None:
    """What the best article says, if the search found one."""
    articles = (turn.result("search_help_centre") or {}).get("articles")
    if not articles:
        return None
    best = articles[0]
    paragraphs = [p.strip() for p in str(best["text"]).split("\n\n") if p.strip()]
    # A critic gets the whole article.
    chosen = paragraphs if turn.critique else _relevant(paragraphs, content_stems(turn.question))
    text = PHRASES[turn.language]["article"].format(title=best["title"], text="\n\n".join(chosen))
    confidence = round(0.4 + 0.5 * float(best.get("score") or 0.0), 2)
    return Answer(text, confidence, (str(best["id"]),))


def _relevant(paragraphs: list[str], asked: set[str]) -> list[str]:
    """The first paragraph, which answers the article's question, and one more if it speaks of what the first leaves out."""
    missing = asked - content_stems(paragraphs[0]) if paragraphs else set()
    more = max(paragraphs[1:], key=lambda p: len(missing & content_stems(p)), default="")
    return [*paragraphs[:1], *([more] if len(missing & content_stems(more)) >= _WORTH_ANOTHER else [])]


def _invoice(invoice: dict[str, Any], language: Language) -> str:
    return PHRASES[language]["invoice"].format(
        id=invoice.get("id"),
        issued=invoice.get("issued_on"),
        amount=_money(invoice.get("amount_eur")),
        due=invoice.get("due_on"),
        status=_status(invoice, language),
    )


def _status(record: dict[str, Any], language: Language) -> str:
    status = str(record.get("status"))
    return PHRASES[language].get(f"status_{status}", status)


def _money(amount: Any) -> str:
    return f"{amount:.2f} €" if isinstance(amount, int | float) else "?"


def _offline(text: str, language: Language) -> str:
    return f"{text}\n\n{PHRASES[language]['offline']}"
