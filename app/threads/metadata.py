"""What a thread's metadata may be: what the index of threads can take."""

from __future__ import annotations

from typing import Any

import orjson

from app.errors import InvalidInput

MAX_PAIRS = 64
"""Most keys of a thread's metadata. Each is found by the index of threads, so each costs every change of the thread a little."""


def check_metadata(metadata: dict[str, Any]) -> None:
    """Return if these can be a thread's metadata.

    Raises:
        InvalidInput: They are too many, or hold a number that nobody can store.
    """
    if len(metadata) > MAX_PAIRS:
        raise InvalidInput(f"a thread's metadata may have at most {MAX_PAIRS} keys; put what is not searched for into one object")
    try:
        orjson.dumps(metadata)
    except TypeError as exc:
        raise InvalidInput(f"metadata: {exc}") from None
