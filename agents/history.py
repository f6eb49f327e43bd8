"""How much of a conversation a model is shown."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage
from langchain_core.messages.utils import count_tokens_approximately, trim_messages

HISTORY_TOKENS = 3_000
"""Most of the past that a prompt carries, so that turn 50 costs what turn 5 costs (design §4, invariant 9)."""
HISTORY_MESSAGES = 100
"""Most messages that are looked at for it, so that choosing them costs the same in every turn too."""


def recent(messages: Sequence[AnyMessage | BaseMessage], max_tokens: int = HISTORY_TOKENS) -> list[BaseMessage]:
    """The latest messages that fit, oldest first, beginning with one of the customer; the question itself always stays.

    Args:
        messages: The conversation, the question last.
        max_tokens: How much may be kept, in tokens of about four characters.
    """
    kept: list[BaseMessage] = trim_messages(
        list(messages[-HISTORY_MESSAGES:]),
        max_tokens=max_tokens,
        token_counter=count_tokens_approximately,
        strategy="last",
        start_on="human",
    )
    if kept:
        return kept
    question: list[BaseMessage] = [message for message in messages if isinstance(message, HumanMessage)]
    return question[-1:]
