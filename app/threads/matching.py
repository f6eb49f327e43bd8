"""What a search asks of a thread, as pure functions: what holds what, and where a path leads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.errors import InvalidInput

MAX_PATHS = 10
"""Most paths of one search, as the protocol has it."""
ROOTS = ("metadata", "values", "interrupts", "error", "status", "thread_id", "created_at", "updated_at", "state_updated_at", "config")
"""What a path may begin with."""
_STEP = re.compile(r"\.([^.\[\]]+)|\[(-?\d{1,9})\]")
_PATH = re.compile(rf"({'|'.join(ROOTS)})((?:{_STEP.pattern})*)")

Path = tuple[str | int, ...]
"""Keys and positions, the root first."""


def contains(found: Any, wanted: Any) -> bool:
    """Whether `found` holds all of `wanted`: objects key by key, of a list each element anywhere in it, all else if it is equal."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(key in found and contains(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and all(any(contains(element, value) for element in found) for value in wanted)
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)


def parsed_path(text: str) -> Path:
    """The path that `text` is: `metadata.a.b`, `values.messages[-1].content`.

    Raises:
        InvalidInput: It is none, or begins with something that a thread does not have.
    """
    match = _PATH.fullmatch(text)
    if match is None:
        known = ", ".join(ROOTS)
        raise InvalidInput(f"extract: {text[:80]!r} is no path such as metadata.a.b or values.messages[-1]; it begins with one of {known}")
    steps = [int(position) if position else key for key, position in _STEP.findall(text[len(match[1]) :])]
    return (match[1], *steps)


def at_path(thread: Mapping[str, Any], path: Path) -> Any:
    """What is at the end of the path; None if it leads nowhere."""
    found: Any = thread
    for step in path:
        if isinstance(step, int):
            if not isinstance(found, list) or not -len(found) <= step < len(found):
                return None
            found = found[step]
        else:
            if not isinstance(found, Mapping) or step not in found:
                return None
            found = found[step]
    return found
