"""What a caller wants of a run, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langgraph.graph import END, START

from app.assistants.configuration import Configured, configured
from app.errors import InvalidInput
from app.storage.redis.assistants import AssistantRecord
from app.threads.values import checked_input, checked_update
from graphs.registry import GraphEntry
from resilience.context import Priority


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller wants of a run; the fields are described in `app.api.schemas`, `deadline` (seconds) and `priority` in `new_run`."""

    assistant_id: str
    input: dict[str, Any] | None = None
    command: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    stream_mode: tuple[str, ...] = ()
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    interrupt_before: tuple[str, ...] | str = ()
    interrupt_after: tuple[str, ...] | str = ()
    checkpoint_id: str | None = None
    multitask_strategy: str = "enqueue"
    if_not_exists: str = "reject"
    durability: str = "async"
    tags: tuple[str, ...] = ()
    recursion_limit: int | None = None
    context: dict[str, Any] = field(default_factory=dict)
    configurable: dict[str, Any] = field(default_factory=dict)
    keep_thread: bool = True
    after: float = 0.0
    webhook: str = ""
    is_background: bool = False
    deadline: float | None = None
    priority: Priority = Priority.DEFAULT

    @property
    def says_nothing(self) -> bool:
        """Whether it can only continue from what the thread has."""
        return self.input is None and not _meant(self.command)


def checked_by(entry: GraphEntry, assistant: AssistantRecord, request: RunRequest) -> Configured:
    """What the run takes from its assistant, and what it says itself; see `app.assistants.configuration.configured`."""
    return configured(
        entry,
        assistant,
        context=request.context,
        configurable=request.configurable,
        tags=request.tags,
        recursion_limit=request.recursion_limit,
        metadata=request.metadata,
    )


def checked(entry: GraphEntry, request: RunRequest, how: Configured) -> dict[str, Any]:
    """What executing the run needs; stored, so that any process can do it, and do it again.

    Raises:
        InvalidInput: The input or the command is not what the graph accepts, or names a node that it does not have.
    """
    _check_nodes(entry, request)
    return {
        "input": checked_input(entry, request.input),
        "command": _checked_command(entry, request.command),
        "stream_mode": list(request.stream_mode),
        "stream_subgraphs": request.stream_subgraphs,
        "interrupt_before": request.interrupt_before,
        "interrupt_after": request.interrupt_after,
        "checkpoint_id": request.checkpoint_id,
        "durability": request.durability,
        "tags": list(how.tags),
        "recursion_limit": how.recursion_limit,
        "context": how.context,
        "priority": request.priority,
    }


def _meant(command: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parts of a command that say something."""
    return {name: value for name, value in (command or {}).items() if value or (name == "resume" and value is not None)}


def _checked_command(entry: GraphEntry, command: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The command, or None if it says nothing. What its `update` writes would stay in the thread, so it is checked like an input."""
    meant = _meant(command)
    if "update" in meant:
        meant["update"] = checked_update(entry, dict(meant["update"]), "command.update")
    return meant or None


def _check_nodes(entry: GraphEntry, request: RunRequest) -> None:
    """A stop or a jump that names no node would be passed over in silence."""
    goto = (request.command or {}).get("goto") or ()
    named = [*_listed(request.interrupt_before), *_listed(request.interrupt_after), *_listed(goto)]
    nodes = sorted(entry.graph.nodes.keys() - {START})
    strange = [name for name in named if name not in {"*", END, *nodes}]
    if strange:
        raise InvalidInput(f"there is no node {strange[0]!r}; there are: {', '.join(nodes)}")


def _listed(names: Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names
