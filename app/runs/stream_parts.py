"""From LangGraph's stream parts to the events of the wire protocol (`version="v2"` parts in, v1 events out)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, BaseMessageChunk
from langchain_core.messages.utils import message_chunk_to_message
from langgraph.types import Interrupt

from app.storage.redis.runs import NewEvent
from app.threads.plain import to_json
from app.threads.state import checkpoint_ref

GRAPH_MODES: Mapping[str, str] = {
    "values": "values",
    "updates": "updates",
    "messages": "messages",
    "messages-tuple": "messages",
    "custom": "custom",
    "tasks": "tasks",
    "checkpoints": "checkpoints",
    "debug": "debug",
    "events": "messages",
}
"""Stream modes of the protocol, and the mode of the graph that each needs; `events` needs models that stream."""


class PartTranslator:
    """Translates the parts of one run, in their order.

    Args:
        modes: Stream modes that the caller asked for.
        shown: Keys of the state that `values` shows; None: all.
        has_history: Whether the thread outlives the run; without, nobody is told of checkpoints.
    """

    def __init__(self, modes: Sequence[str], shown: Sequence[str] | None, *, has_history: bool = True) -> None:
        self._modes = frozenset(modes)
        self._has_history = has_history
        self._shown = frozenset(shown) if shown is not None else None
        self._partial: dict[str, AIMessageChunk] = {}
        self._described: set[str] = set()

    def events(self, part: Mapping[str, Any]) -> Iterator[NewEvent]:
        """The events of one part: none if nobody asked for it, several for the accumulating form of messages."""
        kind, namespace, data = part["type"], part["ns"], part["data"]
        suffix = "".join(f"|{step}" for step in namespace)
        if kind == "messages":
            yield from self._messages(data, suffix)
        elif kind == "values":
            interrupts = part.get("interrupts") or ()
            # An interrupt is told by `values` even to those who only asked for other modes.
            if "values" in self._modes or (interrupts and "updates" not in self._modes):
                yield f"values{suffix}", to_json(self.values(data, interrupts))
        elif kind in self._modes and (self._has_history or not _is_checkpoint(kind, data)):
            yield f"{kind}{suffix}", to_json(_with_checkpoints(data) if kind == "debug" and _is_checkpoint(kind, data) else data)

    def values(self, state: Mapping[str, Any], interrupts: Sequence[Interrupt] = ()) -> dict[str, Any]:
        """The part of the state that callers see, with what waits for an answer."""
        shown = {key: value for key, value in state.items() if self._shown is None or key in self._shown}
        return {**shown, "__interrupt__": list(interrupts)} if interrupts else shown

    def _messages(self, data: tuple[BaseMessage, dict[str, Any]], suffix: str) -> Iterator[NewEvent]:
        message, metadata = data
        if "messages-tuple" in self._modes:
            yield f"messages{suffix}", to_json([message, metadata])
        if "messages" not in self._modes:
            return
        key = str(message.id)
        if key not in self._described:
            self._described.add(key)
            yield "messages/metadata", to_json({key: {"metadata": metadata}})
        if isinstance(message, AIMessageChunk):
            whole = self._partial[key] + message if key in self._partial else message
            assert isinstance(whole, AIMessageChunk)
            self._partial[key] = whole
            yield "messages/partial", to_json([message_chunk_to_message(whole)])
        elif isinstance(message, BaseMessageChunk):
            yield "messages/partial", to_json([message_chunk_to_message(message)])
        elif not (isinstance(message, AIMessage) and key in self._partial):
            yield "messages/complete", to_json([message])


def _is_checkpoint(kind: str, data: Any) -> bool:
    return kind == "checkpoints" or (kind == "debug" and data["type"] == "checkpoint")


def _with_checkpoints(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of the debug mode, which names itself and its parent the way requests do."""
    payload = entry["payload"]
    named = {"checkpoint": checkpoint_ref(payload["config"]), "parent_checkpoint": checkpoint_ref(payload["parent_config"])}
    return {**entry, "payload": {**payload, **named}}
