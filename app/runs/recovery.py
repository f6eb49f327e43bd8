"""Where the earlier attempts of a run left off, read from the checkpoints of its thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.storage.redis.runs import RunRecord


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a further attempt begins.

    Args:
        begin: The graph's input; None: go on from the checkpoint.
        config: The graph's configuration.
        state: The state that it begins with.
        attempt: The last attempt that wrote a checkpoint; 0: none did.
        is_at_breakpoint: Whether the run had come where it was told to stop, and only its end was not written.
    """

    begin: Any
    config: dict[str, Any]
    state: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    is_at_breakpoint: bool = False


async def recover(graph: Any, run: RunRecord, config: dict[str, Any], begin: Any) -> Recovery:
    """Go on from the run's last checkpoint if it wrote one, else begin as it was to begin: with `begin` and `config`."""
    latest = {**config, "configurable": {"thread_id": run.thread_id, "checkpoint_ns": ""}}
    snapshot = await graph.aget_state(latest)
    metadata, state = snapshot.metadata or {}, snapshot.values or {}
    if metadata.get("run_id") != run.run_id:
        return Recovery(begin, config, state)
    is_at_breakpoint = False
    if metadata["source"] == "loop":  # to go on from a breakpoint would pass it
        is_at_breakpoint = _names(run.kwargs["interrupt_before"], snapshot.next)
        if run.kwargs["interrupt_after"] and not is_at_breakpoint:
            before = await graph.aget_state(snapshot.parent_config)
            is_at_breakpoint = _names(run.kwargs["interrupt_after"], before.next)
    return Recovery(None, latest, state, metadata["run_attempt"], is_at_breakpoint)


def _names(breakpoints: str | Sequence[str], nodes: Sequence[str]) -> bool:
    return any((breakpoints == "*" and node != "__start__") or node in breakpoints for node in nodes)
