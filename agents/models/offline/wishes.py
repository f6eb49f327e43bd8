"""What a customer wants, where a rule can tell it safely: a refund, a cancellation, a human, small talk.

The rules err towards a human: a wish that is missed costs more than one that is seen where there was none. Refunds and
cancellations are known in French, German, Portuguese and Italian too, since they are escalated in any language (design D10).
"""

from __future__ import annotations

import re

from agents.models.offline.lexicon import Lexicon
from agents.models.offline.words import fold, vocabulary, words

_ORDER = re.compile(r"(?:\baz[- ]?|#|\b(?:order|pedido|compra|purchase)\b[^\d]{0,12})(\d{5})\b")
_LONGEST_SMALL_TALK = 8
_AROUND = vocabulary(
    """a again all and are day de dia dias everyone fine for good great have help how is it la later lot lots mil much muchas muy nos
    ok okay oh perfect perfecto por pronto que see so su take care team that that's the there todo tu very well y ya you your bueno
    buen buena buenos buenas vale listo dale genial amable equipo now night morning afternoon evening tarde tardes noche noches hasta
    luego manana this very ayuda up guys folks tal doing como estas va thing"""
)
_KINDS = {
    "thanks": vocabulary("thanks thank thankyou thx ty cheers appreciated appreciate gracias agradezco agradecido agradecida"),
    "goodbye": vocabulary("bye goodbye ciao adios chau chao luego pronto vemos farewell night later saludos"),
    "greeting": vocabulary("hi hello hey hiya howdy aloha greetings sup hola buenas buenos morning afternoon evening tal how"),
}


def wants_refund(text: str) -> bool:
    """Whether the message speaks of getting money back."""
    folded, lexicon = fold(text), Lexicon.bundled()
    return lexicon.has("refund", folded) or (lexicon.has("repayment", folded) and not lexicon.has("repayment_question", folded))


def wants_to_cancel(text: str) -> bool:
    """Whether the message speaks of cancelling something or closing the account."""
    return Lexicon.bundled().has("cancel", fold(text))


def wants_human(text: str) -> bool:
    """Whether the customer asks for a person or makes a complaint (asking whether we are a person does not count)."""
    folded, lexicon = fold(text), Lexicon.bundled()
    return (lexicon.has("human", folded) and not lexicon.has("bot", folded)) or lexicon.has("complaint", folded)


def is_loss_or_fraud(text: str) -> bool:
    """Whether a card or phone is gone, or somebody else may be using the account.

    A direct debit that the customer does not recognise is billing's: its creditor is known and can be asked.
    """
    folded, lexicon = fold(text), Lexicon.bundled()
    is_lost = lexicon.has("loss", folded) and not lexicon.has("found_again", folded)
    return is_lost or (lexicon.has("fraud", folded) and not lexicon.has("standing_order", folded))


def needs_human(text: str) -> bool:
    """Whether any rule says that only a human may settle it."""
    return wants_refund(text) or wants_to_cancel(text) or wants_human(text) or is_loss_or_fraud(text)


def is_angry(text: str) -> bool:
    """Whether the customer is angry."""
    return Lexicon.bundled().has("anger", fold(text))


def order_id(text: str) -> str | None:
    """The first order number in `text`, as `AZ-12345`."""
    found = _ORDER.search(fold(text))
    return f"AZ-{found.group(1)}" if found else None


def small_talk(text: str) -> str | None:
    """`greeting`, `thanks`, `goodbye` or `bot` if the message is nothing else."""
    if Lexicon.bundled().has("bot", fold(text)):
        return "bot"
    said = words(text)
    if len(said) > _LONGEST_SMALL_TALK:
        return None
    known = _AROUND.union(*_KINDS.values())
    return next((kind for kind, keys in _KINDS.items() if keys.intersection(said) and known.issuperset(said)), None)
