"""A specialist by rules: which tool to ask next, and when to answer."""

from __future__ import annotations

import json
from collections.abc import Collection
from hashlib import blake2s
from typing import Any

from langchain_core.messages import AIMessage, ToolCall

from agents.models.offline import answers, wishes
from agents.models.offline.answers import Answer
from agents.models.offline.conversation import Turn
from agents.models.offline.lexicon import Lexicon
from agents.models.offline.words import fold, words

_ORDINALS = (
    ("primera primero first 1st", 0),
    ("segunda segundo second 2nd otra otro other", 1),
    ("tercera tercero third 3rd", 2),
    ("cuarta cuarto fourth 4th", 3),
    ("quinta quinto fifth 5th", 4),
    ("ultima ultimo last oldest", -1),
)
_WHICH = {word: which for said, which in _ORDINALS for word in said.split()}
_LONGEST_FOLLOW_UP = 7
_SHORTEST_QUERY = 4
_LONGEST_REASON, _LONGEST_QUERY = 500, 2000
_OWNERS = {"list_invoices": "billing_support", "open_refund_request": "billing_support", "find_order": "general_support"}
"""The desk that has what another one lacks."""

Call = tuple[str, dict[str, Any]]


def work(turn: Turn, name: str, offered: Collection[str]) -> AIMessage:
    """The specialist's next message: tool calls while something is left to look up, then the answer.

    Args:
        turn: The customer's message and what the tools have said so far.
        name: Who works.
        offered: Names of the functions that may be called; no other is.
    """
    done = {outcome.tool for outcome in turn.outcomes}
    if not done:
        if answer := _at_once(turn):
            return _conclude(turn, answer, offered)
        if _is_for_human(turn) and "call_human" in offered:
            return _calling(turn, [("call_human", {"reason": f"Only a human may settle this: {turn.question[:_LONGEST_REASON]}"})])
    wanted = [call for call in _wanted(turn) if call[0] not in done]
    if calls := [call for call in wanted if call[0] in offered]:
        return _calling(turn, calls)
    if wanted and "hand_back" in offered and (owner := _OWNERS.get(wanted[0][0], name)) != name:
        return _calling(
            turn, [("hand_back", {"reason": f"This needs {wanted[0][0]}, which this desk does not have.", "suggestion": owner})]
        )
    if not done:
        return (
            _calling(turn, [_search(turn)])
            if "search_help_centre" in offered
            else _conclude(turn, answers.no_rules(turn.language), offered)
        )
    return _conclude(turn, answers.compose(turn), offered)


def only_search(turn: Turn) -> str | None:
    """What to search the help centre for if that is all that the question needs; else None."""
    if _at_once(turn) or _is_for_human(turn) or len(words(turn.question)) < _SHORTEST_QUERY:
        return None
    wanted = _wanted(turn)
    return wanted[0][1]["query"] if [name for name, _ in wanted] == ["search_help_centre"] else None


def _at_once(turn: Turn) -> Answer | None:
    """The answer to what needs no tool: small talk, and another invoice of a list that was shown."""
    if kind := wishes.small_talk(turn.question):
        return answers.small_talk(kind, turn.language)
    said = words(turn.question)
    which = next((_WHICH[word] for word in said if word in _WHICH), None)
    if which is None or len(said) > _LONGEST_FOLLOW_UP or turn.previous_answer is None:
        return None
    shown = turn.previous_answer.text
    invoices = (turn.earlier("list_invoices") or {}).get("invoices", [])
    if any(str(invoice.get("id")) in shown for invoice in invoices):
        return answers.one_of(invoices, which, turn.language)
    return answers.one_line_of(shown, which, turn.language)


def _is_for_human(turn: Turn) -> bool:
    return wishes.needs_human(turn.question) and turn.refunded_order is None


def _wanted(turn: Turn) -> list[Call]:
    """The calls that this question is worth; what a later one needs is asked first and alone."""
    if order := turn.refunded_order:
        found = turn.result("find_order")
        if found and answers.is_refundable(found):
            return [("open_refund_request", {"order_id": order, "reason": turn.question[:_LONGEST_REASON]})]
        return [("find_order", {"order_id": order})]
    if order := wishes.order_id(turn.question):
        return [("find_order", {"order_id": order})]
    folded, lexicon = fold(turn.question), Lexicon.bundled()
    asks = set(lexicon.concepts("requests", folded))
    if {"invoices", "own"} <= asks and "advice" not in asks:
        return [("list_invoices", {"status": "paid"} if "paid" in asks else {})]
    if "account" in asks:
        return [("get_customer", {}), _search(turn)]
    if "outage" in asks:
        services = lexicon.concepts("services", folded)
        return [("service_status", {"component": services[0]} if services else {}), _search(turn)]
    return [_search(turn)]


def _search(turn: Turn) -> Call:
    """The customer's own words; a follow-up too short to be found alone takes the question before along."""
    query = turn.question if len(words(turn.question)) >= _SHORTEST_QUERY else f"{turn.previous_question} {turn.question}"
    return "search_help_centre", {"query": query.strip()[:_LONGEST_QUERY] or "?"}


def _conclude(turn: Turn, answer: Answer, offered: Collection[str]) -> AIMessage:
    if "conclude" not in offered:
        return AIMessage(answer.text)
    arguments = {"confidence": answer.confidence, "sources": list(answer.sources)}
    return AIMessage(answer.text, tool_calls=[_call(turn, "conclude", arguments)])


def _calling(turn: Turn, calls: list[Call]) -> AIMessage:
    return AIMessage("", tool_calls=[_call(turn, name, arguments) for name, arguments in calls])


def _call(turn: Turn, name: str, arguments: dict[str, Any]) -> ToolCall:
    """A call whose id is the same whenever the same prompt asks for it, and another one in every other turn."""
    identity = json.dumps([turn.question, len(turn.before), len(turn.outcomes), name, arguments])
    return {"type": "tool_call", "id": f"call_{blake2s(identity.encode(), digest_size=9).hexdigest()}", "name": name, "args": arguments}
