"""What a run is and which ways it may go: pure.

pending → running → success | error | timeout | interrupted
   │          └───→ pending               (drained: continues elsewhere)
   ├──────────────→ interrupted           (cancelled before it began)
   └──────────────→ error                 (its process died before it began)
"""

from __future__ import annotations

from typing import get_args

from app.storage.redis.runs import RunStatus

STATUSES: frozenset[str] = frozenset(get_args(RunStatus))
FINAL: frozenset[str] = STATUSES - {"pending", "running"}
_NEXT: dict[str, frozenset[str]] = {
    "pending": frozenset({"running", "interrupted", "error"}),
    "running": frozenset({"success", "error", "timeout", "interrupted", "pending"}),
}

TERMINAL_EVENTS = frozenset({"end", "error"})
"""Every run's log ends with exactly one of these: `end` if it has a result or was cancelled, `error` if it failed."""


def may_become(old: RunStatus, new: RunStatus) -> bool:
    """Whether a run may go from `old` to `new`."""
    return new in _NEXT.get(old, frozenset())


def is_final(status: RunStatus) -> bool:
    """Whether the run has ended."""
    return status in FINAL
