"""What the help centre alone says to a question, where that is enough."""

from __future__ import annotations

from typing import Any

from agents.language import Language
from agents.models.offline import answers, specialist
from agents.models.offline.answers import Answer
from agents.models.offline.conversation import Outcome, Turn

_SEARCH = "search_help_centre"


def subject(question: str, language: Language) -> str | None:
    """What to search the help centre for; None: the answer needs a human, an action, the customer's records, or what was said before."""
    return specialist.only_search(Turn(question, (), (), language, None))


def quote(question: str, found: dict[str, Any], language: Language) -> Answer | None:
    """The best article of what the search `found`, quoted; None: it found nothing."""
    return answers.article(Turn(question, (), (Outcome(_SEARCH, found),), language, None))
