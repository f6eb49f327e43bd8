"""The critic by rules: it can tell whether a draft has a source, not whether the source says it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from langchain_core.messages import BaseMessage

_SOURCES = re.compile(r"^Sources: (?!none\b)\S", re.MULTILINE)


def critique(messages: Sequence[BaseMessage]) -> str:
    """What to improve in the draft of the prompt, which names its sources in a line that begins with `Sources:`."""
    if _SOURCES.search(messages[-1].text):
        return "The draft quotes its source only in part. Give everything that the source says on the question."
    return "The draft has no source. Offer a human unless a tool finds one."
