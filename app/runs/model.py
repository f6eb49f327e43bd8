"""What a run is and which ways it may go: pure.

pending → running → success | error | timeout | interrupted
   │         ├───────→ pending           (handed back: continues elsewhere)
   │         └───────→ running           (its process died: continues elsewhere)
   └─────────────────→ interrupted       (cancelled before it began)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from app.storage.redis.runs import RunRecord, RunStatus

_NOWHERE: frozenset[RunStatus] = frozenset()
NEXT: Mapping[RunStatus, frozenset[RunStatus]] = MappingProxyType(
    {
        "pending": frozenset({"running", "interrupted"}),
        "running": frozenset({"running", "pending", "success", "error", "timeout", "interrupted"}),
        "success": _NOWHERE,
        "error": _NOWHERE,
        "timeout": _NOWHERE,
        "interrupted": _NOWHERE,
    }
)
"""Where a run may go from each status; the scripts of the storage go no other way."""

TERMINAL_EVENTS = frozenset({"end", "error"})
"""Every run's log ends with exactly one of these: `end` if it has a result or was cancelled, `error` if it failed."""

HIDDEN = "@"
"""How names of events begin that are not for readers of a run, but tell the stream of the thread (protocol v2) what it cannot know."""
BEGUN = "@begun"
"""An attempt begins: `{"graph_id", "stream_mode"}`."""
PAUSED = "@paused"
"""The run ends and the graph waits, for answers or because it was told to stop there."""


def is_final(status: RunStatus) -> bool:
    """Whether the run has ended."""
    return not NEXT[status]


def public_run(run: RunRecord) -> dict[str, Any]:
    """The run as callers see it, plain JSON values but for its times."""
    return {
        "run_id": run.run_id,
        "thread_id": run.thread_id,
        "assistant_id": run.assistant_id,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
        "status": run.status,
        "metadata": {**run.metadata, "graph_id": run.graph_id, "assistant_id": run.assistant_id},
        "multitask_strategy": run.multitask_strategy,
        "kwargs": {},
        "ended_by": run.ended_by or None,
    }
