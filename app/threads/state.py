"""A graph's snapshot in the protocol's words."""

from __future__ import annotations

from typing import Any

from langgraph.types import StateSnapshot

from app.threads.plain import plain_interrupt, to_plain


def thread_state(state: StateSnapshot) -> dict[str, Any]:
    """The snapshot as a ThreadState: `values`, `next`, `tasks`, `checkpoint` and the rest, plain JSON."""
    # A thread without a run has a config, but there is nothing behind it.
    checkpoint = checkpoint_ref(state.config) if state.created_at is not None else None
    parent = checkpoint_ref(state.parent_config)
    metadata = to_plain(dict(state.metadata or {}))
    if checkpoint is not None:
        metadata["thread_id"] = checkpoint["thread_id"]  # the graph leaves it out of what it stores
    return {
        "values": to_plain(state.values),
        "next": list(state.next),
        "tasks": [_task(task) for task in state.tasks],
        "metadata": metadata,
        "created_at": state.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "checkpoint_id": checkpoint["checkpoint_id"] if checkpoint else None,
        "parent_checkpoint_id": parent["checkpoint_id"] if parent else None,
        "interrupts": to_plain([plain_interrupt(interrupt) for interrupt in state.interrupts]),
    }


def _task(task: Any) -> dict[str, Any]:
    """One task; a subgraph's state is either named (a config) or there (a snapshot)."""
    nested = task.state
    return {
        "id": task.id,
        "name": task.name,
        "path": to_plain(task.path),
        "error": str(task.error) if task.error else None,
        "interrupts": to_plain([plain_interrupt(interrupt) for interrupt in task.interrupts]),
        "checkpoint": to_plain(nested["configurable"]) if isinstance(nested, dict) else None,
        "state": thread_state(nested) if isinstance(nested, StateSnapshot) else None,
        "result": to_plain(task.result),
    }


def checkpoint_ref(config: Any) -> dict[str, Any] | None:
    """The checkpoint that a graph's config names, as the protocol names it; None: there is no config."""
    if not config:
        return None
    found = config["configurable"]
    return {
        "thread_id": str(found["thread_id"]),
        "checkpoint_ns": found.get("checkpoint_ns", ""),
        "checkpoint_id": found.get("checkpoint_id"),
    }
