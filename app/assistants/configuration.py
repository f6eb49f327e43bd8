"""What callers may say of an execution, on an assistant or on a run, and what a run takes from its assistant (ADR-0028)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.errors import ConflictingRequest, InvalidInput
from app.storage.redis.assistants import AssistantRecord
from graphs.registry import GraphEntry

MAX_FAULTS = 5
"""Most faults that a refusal lists."""
SYSTEM: Mapping[str, Any] = {"created_by": "system"}
"""What the metadata of a graph's own assistant say: of the assistant, and not of its runs."""
_RESERVED, _RESERVED_PREFIXES = frozenset({"thread_id"}), ("__", "checkpoint_", "langgraph_auth_")


@dataclass(frozen=True, slots=True)
class Configured:
    """What a run does as its assistant and its caller want it.

    Args:
        context: For the graph, checked; plain JSON.
        tags: Words that its events and traces carry.
        recursion_limit: Most supersteps; None: as many as the graph allows.
        metadata: What is stored with it.
    """

    context: dict[str, Any]
    tags: tuple[str, ...]
    recursion_limit: int | None
    metadata: dict[str, Any]


def trusted(configurable: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that callers may set; the others name what only the service knows, and are dropped."""
    return {key: value for key, value in configurable.items() if key not in _RESERVED and not key.startswith(_RESERVED_PREFIXES)}


def said(entry: GraphEntry, context: Mapping[str, Any], configurable: Mapping[str, Any]) -> dict[str, Any]:
    """What one caller says to the graph: its `context`, or the keys of `configurable` that have a context's name, as it was said before.

    Raises:
        ConflictingRequest: Both say something.
    """
    configurable = trusted(configurable)
    if context and configurable:
        raise ConflictingRequest("give either context or config.configurable; context is the newer one", "context_and_configurable")
    known = entry.context_schema.model_fields if entry.context_schema is not None else {}
    return {**context, **{key: value for key, value in configurable.items() if key in known}}


def checked_context(entry: GraphEntry, given: Mapping[str, Any], *, is_whole: bool = True) -> dict[str, Any]:
    """`given` as plain JSON, with what it says and no defaults.

    Args:
        entry: The graph that it is for.
        given: What is said to the graph.
        is_whole: Whether this is all that the graph will hear; if not, what it needs may be missing.

    Raises:
        InvalidInput: The graph does not take it.
    """
    if entry.context_schema is None:
        if given:
            raise InvalidInput(f"graph {entry.graph_id} takes no context: {', '.join(sorted(given))}", "invalid_context")
        return {}
    try:
        return entry.context_schema.model_validate(dict(given)).model_dump(mode="json", exclude_unset=True)
    except ValidationError as exc:
        faults = [error for error in exc.errors() if is_whole or error["type"] != "missing"]
        if not faults:
            return dict(given)
        told = (f"{'.'.join(['context', *map(str, fault['loc'])])}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults)
        raise InvalidInput("; ".join(list(told)[:MAX_FAULTS]), "invalid_context") from None


def configured(
    entry: GraphEntry,
    assistant: AssistantRecord,
    *,
    context: Mapping[str, Any],
    configurable: Mapping[str, Any],
    tags: tuple[str, ...],
    recursion_limit: int | None,
    metadata: Mapping[str, Any],
) -> Configured:
    """What a run does; where the run and its assistant say different things, the run's word counts, key by key.

    Raises:
        ConflictingRequest: The run's context and its configurable both say something.
        InvalidInput: The graph does not take what the two say together.
    """
    by_assistant = said(entry, assistant.context, assistant.config.get("configurable", {}))
    return Configured(
        context=checked_context(entry, {**by_assistant, **said(entry, context, configurable)}),
        tags=tags or tuple(assistant.config.get("tags", ())),
        recursion_limit=recursion_limit or assistant.config.get("recursion_limit"),
        metadata={**(assistant.metadata if assistant.metadata != SYSTEM else {}), **metadata},
    )
