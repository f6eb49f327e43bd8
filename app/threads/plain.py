"""The values of a graph as plain JSON: messages flat, as the protocol has them."""

from __future__ import annotations

from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langgraph.types import Interrupt


def to_json(value: Any) -> bytes:
    """`value` as JSON; what has no JSON form becomes its text."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def to_plain(value: Any) -> Any:
    """`value` as what its JSON says."""
    return orjson.loads(to_json(value))


def plain_interrupt(interrupt: Interrupt) -> dict[str, Any]:
    """An interrupt as the protocol has it."""
    return {"value": interrupt.value, "id": interrupt.id, "response_schema": None}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return value.model_dump()
    if isinstance(value, Interrupt):
        return plain_interrupt(value)
    if hasattr(value, "model_dump"):
        return value.model_dump()
    return list(value) if isinstance(value, set | frozenset) else str(value)
