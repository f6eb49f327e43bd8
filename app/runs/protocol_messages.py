"""Messages as protocol v2 tells them: a start, content blocks that grow, a finish. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

ROLES = {"ai": "ai", "AIMessageChunk": "ai", "human": "human", "system": "system"}
"""Who speaks, by the type of the message; what tools say is told in the channel `tools`."""
_DESCRIBED = ("langgraph_node", "run_id", "thread_id")


@dataclass(slots=True)
class _Block:
    """One content block under way."""

    index: int
    content: dict[str, Any]
    field: str

    def grow(self, more: str) -> dict[str, Any]:
        self.content[self.field] += more
        kind = {"text": "text-delta", "reasoning": "reasoning-delta", "args": "tool-call-delta"}[self.field]
        return {"event": "content-block-delta", "index": self.index, "delta": {"type": kind, self.field: more}}

    def finished(self) -> dict[str, Any]:
        if self.field != "args":
            return self.content
        name, key, text = self.content["name"], self.content["id"], self.content["args"]
        try:
            args = orjson.loads(text or "{}")
        except orjson.JSONDecodeError:
            args = None
        if name and isinstance(args, dict):
            return {"type": "tool_call", "id": key, "name": name, "args": args}
        return {"type": "invalid_tool_call", "id": key, "name": name, "args": text, "error": "the arguments are no JSON object"}


@dataclass(slots=True)
class OpenMessage:
    """A message that is being said; every event of it carries its id."""

    id: str
    namespace: tuple[str, ...]
    blocks: dict[str, _Block] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None

    def start(self, message: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
        """Its first event."""
        known = {name: meta[name] for name in _DESCRIBED if meta.get(name) is not None}
        if meta.get("ls_provider"):
            known["provider"] = meta["ls_provider"]
        if meta.get("ls_model_name"):
            known["model"] = meta["ls_model_name"]
        return {"event": "message-start", "id": self.id, "role": ROLES[message["type"]], "metadata": known}

    def add(self, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a chunk, or of a message as a whole."""
        for kind, text in _spoken(message["content"]):
            yield from self._grow(kind, {"type": kind, kind: ""}, kind, text)
        for call in message.get("tool_call_chunks") or ():
            key = f"call:{call['index'] if call.get('index') is not None else call.get('id')}"
            yield from self._call(key, call.get("id"), call.get("name"), call.get("args") or "")
        if message["type"] == "ai":
            for call in message.get("tool_calls") or ():
                yield from self._call(f"call:{call['id']}", call["id"], call["name"], orjson.dumps(call["args"]).decode())
        self.usage = _sum(self.usage, message.get("usage_metadata"))
        self.finish_reason = (message.get("response_metadata") or {}).get("finish_reason") or self.finish_reason

    def finish(self) -> Iterator[dict[str, Any]]:
        """Its last events."""
        for block in self.blocks.values():
            yield {"event": "content-block-finish", "id": self.id, "index": block.index, "content": block.finished()}
        end: dict[str, Any] = {"event": "message-finish", "id": self.id}
        if self.usage:
            end["usage"] = self.usage
        if self.finish_reason:
            end["reason"] = self.finish_reason
        yield end

    def calls(self) -> list[dict[str, Any]]:
        """The tool calls that it makes."""
        return [call for call in (block.finished() for block in self.blocks.values()) if call["type"] == "tool_call"]

    def _call(self, key: str, call_id: str | None, name: str | None, args: str) -> Iterator[dict[str, Any]]:
        block = self.blocks.get(key)
        if block is not None:
            block.content["id"] = block.content["id"] or call_id
            block.content["name"] = block.content["name"] or name
        yield from self._grow(key, {"type": "tool_call_chunk", "id": call_id, "name": name, "args": ""}, "args", args)

    def _grow(self, key: str, empty: dict[str, Any], grows: str, more: str) -> Iterator[dict[str, Any]]:
        block = self.blocks.get(key)
        if block is None:
            block = self.blocks[key] = _Block(len(self.blocks), empty, grows)
            yield {"event": "content-block-start", "id": self.id, "index": block.index, "content": dict(empty)}
        if more:
            yield {**block.grow(more), "id": self.id}


def short(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of a state without what says nothing; its content stays what it is, a plain string."""
    always = {"type": message["type"], "content": message["content"], "id": message.get("id")}
    return {**always, **{name: value for name, value in message.items() if name not in always and value not in (None, [], {})}}


def is_message(value: Any) -> bool:
    """Whether this is a message of a state."""
    return isinstance(value, dict) and {"type", "content", "additional_kwargs"} <= value.keys()


def _spoken(content: Any) -> Iterator[tuple[str, str]]:
    """What a content says: kind of block and text."""
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "reasoning") and part.get(kind):
            yield kind, part[kind]


def _sum(known: dict[str, Any] | None, more: Mapping[str, Any] | None) -> dict[str, Any] | None:
    counts = ("input_tokens", "output_tokens", "total_tokens")
    return {name: (known or {}).get(name, 0) + more.get(name, 0) for name in counts} if more else known
