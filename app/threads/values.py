"""What callers may write into a graph's state: what its input accepts, and no more."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from app.errors import InvalidInput
from graphs.registry import GraphEntry

MAX_FAULTS = 5
"""Most faults that a refusal lists."""


def checked_input(entry: GraphEntry, given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The graph's input of a caller's `input`; None stays None.

    Raises:
        InvalidInput: It is not what the graph accepts.
    """
    return None if given is None else _checked(entry, entry.accepts, given, "input")


def checked_update(entry: GraphEntry, given: dict[str, Any], where: str) -> dict[str, Any]:
    """A change of a state, sent in the field `where`; a key that would be passed over is refused.

    Raises:
        InvalidInput: It is not what the graph accepts, or names what callers cannot change.
    """
    strange = sorted(given.keys() - entry.accepts_update.model_fields.keys())
    if strange:
        raise InvalidInput(f"{where} cannot change {', '.join(strange)}")
    return _checked(entry, entry.accepts_update, given, where)


def _checked(entry: GraphEntry, model: type[BaseModel], given: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        accepted = model.model_validate(given)
    except ValidationError as exc:
        faults = [f"{where}.{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}" for error in exc.errors()]
        raise InvalidInput("; ".join(faults[:MAX_FAULTS])) from None
    return entry.as_input(accepted)
