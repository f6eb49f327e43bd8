"""Protocol v2: from the log of a thread to its events. Pure: the same log gives the same events, numbers and times on every connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from agents.controls import CONTROLS
from app.runs import model
from app.runs.model import BEGUN, PAUSED, TERMINAL_EVENTS
from app.runs.protocol_messages import ROLES, OpenMessage, is_message, short
from app.storage.redis.runs import Event, ThreadEvent

NUMBERS = 10_000
"""How many numbers (`seq`) there are for the events that one entry of the log becomes."""
CHANNELS = frozenset({"values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"})
MODES = ("values", "updates", "messages-tuple", "custom", "tasks", "checkpoints")
"""What a run of this protocol logs: all that its channels need."""

Namespace = tuple[str, ...]
_Told = tuple[str, Namespace, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ProtocolEvent:
    """One event: `seq` grows over the thread, `at` is the time of the entry (ISO)."""

    seq: int
    run_id: str
    method: str
    namespace: Namespace
    data: dict[str, Any]
    at: str

    @property
    def channel(self) -> str:
        """The channel that it is sent on."""
        if self.method == "custom" and self.data.get("name"):
            return f"custom:{self.data['name']}"
        return "input" if self.method == "input.requested" else self.method

    def frame(self) -> bytes:
        """The event on the wire. Its id names the run, which is how clients tell the runs of a thread apart."""
        body = {
            "type": "event",
            "event_id": f"synth:{self.run_id}:{self.seq}",
            "seq": self.seq,
            "method": self.method,
            "params": {"namespace": self.namespace, "timestamp": _milliseconds(self.at), "data": self.data},
        }
        return b"event: %b\ndata: %b\nid: %d\n\n" % (self.method.encode(), orjson.dumps(body), self.seq)


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a reader wants.

    Args:
        channels: Names of channels; `custom` has all named ones too.
        namespaces: Beginnings of namespaces; None: all.
        depth: Most levels below such a beginning; None: any.
    """

    channels: frozenset[str]
    namespaces: Sequence[Namespace] | None = None
    depth: int | None = None

    def wants(self, event: ProtocolEvent) -> bool:
        """Whether the event is for this reader."""
        channel = event.channel
        if channel not in self.channels and not (channel.startswith("custom:") and "custom" in self.channels):
            return False
        if not self.namespaces:
            return True
        return any(
            _begins(event.namespace, prefix) and (self.depth is None or len(event.namespace) - len(prefix) <= self.depth)
            for prefix in self.namespaces
        )


def last_seq(event_id: int) -> int:
    """The greatest number of what the entries up to this one become; 0: there is none."""
    return (event_id + 1) * NUMBERS - 1 if event_id else 0


class ThreadTranslator:
    """Translates the log of a thread, from the beginning of a run on."""

    def __init__(self) -> None:
        self._runs: dict[str, RunTranslator] = {}

    def events(self, entry: ThreadEvent) -> list[ProtocolEvent]:
        """The events that an entry becomes."""
        run_id, event = entry.run_id, entry.event
        run = self._runs.setdefault(run_id, RunTranslator())
        told = list(run.told(event))
        if event.name in TERMINAL_EVENTS:
            del self._runs[run_id]
        return [
            ProtocolEvent(event.id * NUMBERS + i, run_id, method, namespace, data, event.at)
            for i, (method, namespace, data) in enumerate(told[:NUMBERS])
        ]


@dataclass(slots=True)
class RunTranslator:
    """Translates the log of one run, from its beginning on.

    Attributes:
        graph_name: The graph that it executes; empty before it has begun.
        statuses: Every namespace that has been seen, the root among them, and what it has come to.
    """

    graph_name: str = ""
    statuses: dict[Namespace, str] = field(default_factory=dict)
    _open: dict[str, OpenMessage] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    _called: set[str] = field(default_factory=set)
    _asked: set[str] = field(default_factory=set)
    _held: tuple[Namespace, dict[str, Any]] | None = None
    _has_checkpoints: bool = False
    _has_values: bool = False
    _is_paused: bool = False

    def told(self, event: Event) -> Iterator[_Told]:
        """What is told of an entry: method, namespace and data."""
        kind, *steps = event.name.split("|")
        namespace = tuple(steps)
        if kind not in ("checkpoints", BEGUN, PAUSED, "metadata", "values", "updates", "custom", "tasks", "messages", *TERMINAL_EVENTS):
            return
        data = orjson.loads(event.data)
        yield from self._discovered(namespace)
        if kind == "checkpoints":
            yield from self._checkpoint(namespace, data)
            return
        yield from self._let_go()
        match kind:
            case model.BEGUN:
                yield from self._begun(data)
            case model.PAUSED:
                self._is_paused = True
            case "values":
                yield from self._values(namespace, data)
            case "updates":
                yield from self._updates(namespace, data)
            case "custom":
                yield "custom", namespace, _custom(data)
            case "tasks":
                yield from self._task(namespace, data)
            case "messages":
                yield from self._message(namespace, *data)
            case "end":
                yield from self._ended({"success": "completed"}.get(data["status"], "interrupted"))
            case "error":
                yield from self._ended("failed", data["message"])

    def _begun(self, data: dict[str, Any]) -> Iterator[_Told]:
        """An attempt begins; what an earlier one did not finish saying is given up."""
        self.graph_name = data["graph_id"]
        self._has_checkpoints, self._has_values = (mode in data["stream_mode"] for mode in ("checkpoints", "values"))
        yield from self._given_up()
        self.statuses[()] = "running"
        yield "lifecycle", (), {"event": "running", "graph_name": self.graph_name}

    def _ended(self, status: str, error: str | None = None) -> Iterator[_Told]:
        status = "interrupted" if self._is_paused and status == "completed" else status
        yield from self._given_up()
        for namespace in sorted(self.statuses, key=len, reverse=True):
            if namespace and self.statuses[namespace] == "started":
                yield self._came_to(namespace, status)
        self.statuses[()] = status
        end = {"event": status, **({"graph_name": self.graph_name} if self.graph_name else {})}
        yield "lifecycle", (), {**end, "error": error} if error is not None else end

    def _given_up(self) -> Iterator[_Told]:
        for message in self._open.values():
            self._said.add(message.id)
            text = "the message was not finished"
            yield "messages", message.namespace, {"event": "error", "id": message.id, "message": text, "code": "abandoned"}
        self._open.clear()

    def _discovered(self, namespace: Namespace) -> Iterator[_Told]:
        """A subgraph is told of before anything that it says."""
        for depth in range(1, len(namespace) + 1):
            inner = namespace[:depth]
            if inner not in self.statuses:
                self.statuses[inner] = "started"
                name, _, task_id = inner[-1].partition(":")
                yield "lifecycle", inner, {"event": "started", "graph_name": name, "namespace": inner, "trigger_call_id": task_id}

    def _came_to(self, namespace: Namespace, status: str, error: str | None = None) -> _Told:
        self.statuses[namespace] = status
        end = {"event": status, "graph_name": namespace[-1].partition(":")[0]}
        return "lifecycle", namespace, {**end, "error": error} if error else end

    def _checkpoint(self, namespace: Namespace, data: dict[str, Any]) -> Iterator[_Told]:
        """A checkpoint is told of right before the state that it holds; the graph says it right after."""
        source = data["metadata"]["source"]
        told = {"id": _checkpoint_id(data["config"]), "step": data["metadata"]["step"], "source": source}
        parent = _checkpoint_id(data.get("parent_config"))
        is_of_held = self._held is not None and self._held[0] == namespace and source == "loop"
        if not is_of_held:
            yield from self._let_go()
        yield "checkpoints", namespace, {**told, **({"parent_id": parent} if parent else {})}
        yield from self._let_go()

    def _values(self, namespace: Namespace, data: dict[str, Any]) -> Iterator[_Told]:
        asked = data.pop("__interrupt__", None)
        self._held = (namespace, {name: _shortened(value) for name, value in data.items()})
        if not self._has_checkpoints or asked is not None:
            yield from self._let_go()
        yield from self._asks(namespace, asked or ())

    def _let_go(self) -> Iterator[_Told]:
        if self._held is not None:
            yield "values", *self._held
            self._held = None

    def _asks(self, namespace: Namespace, interrupts: Sequence[dict[str, Any]]) -> Iterator[_Told]:
        for interrupt in interrupts:
            if interrupt["id"] not in self._asked:
                self._asked.add(interrupt["id"])
                # `payload` is the protocol's word; the Python client reads `value`.
                question = {"payload": interrupt["value"], "value": interrupt["value"]}
                yield "input.requested", namespace, {"interrupt_id": interrupt["id"], **question}

    def _updates(self, namespace: Namespace, data: dict[str, Any]) -> Iterator[_Told]:
        for node, update in data.items():
            if node == "__interrupt__":
                if not self._has_values:  # else they tell of it, right after
                    yield from self._asks(namespace, update)
            elif node != "__metadata__":
                yield "updates", namespace, {"node": node, "values": update if isinstance(update, dict) else {"value": update}}

    def _task(self, namespace: Namespace, data: dict[str, Any]) -> Iterator[_Told]:
        if "result" in data:
            inner = (*namespace, f"{data['name']}:{data['id']}")
            if self.statuses.get(inner) == "started":
                status = "interrupted" if data.get("interrupts") else "failed" if data.get("error") else "completed"
                yield self._came_to(inner, status, data.get("error"))
        yield "tasks", namespace, data

    def _message(self, namespace: Namespace, message: dict[str, Any], meta: dict[str, Any]) -> Iterator[_Told]:
        key, kind = str(message.get("id")), message["type"]
        if kind == "tool":
            yield from self._tool_said(namespace, message)
            return
        if kind not in ROLES:
            return
        known = self._open.get(key)
        if known is None:
            if key in self._said:
                return
            known = self._open[key] = OpenMessage(key, namespace)
            yield "messages", namespace, known.start(message, meta)
        if kind == "AIMessageChunk" or not known.blocks:
            for data in known.add(message):
                yield "messages", namespace, data
        if kind == "AIMessageChunk" and message.get("chunk_position") != "last":
            return
        for data in known.finish():
            yield "messages", namespace, data
        del self._open[key]
        self._said.add(key)
        for call in known.calls():
            if call["name"] not in CONTROLS:  # those are no tools, but how a specialist says that it is done
                yield from self._tool_called(namespace, call)

    def _tool_called(self, namespace: Namespace, call: dict[str, Any]) -> Iterator[_Told]:
        if call["id"] not in self._called:
            self._called.add(call["id"])
            start = {"event": "tool-started", "tool_call_id": call["id"], "tool_name": call["name"], "input": call["args"]}
            yield "tools", namespace, start

    def _tool_said(self, namespace: Namespace, message: dict[str, Any]) -> Iterator[_Told]:
        call_id = message["tool_call_id"]
        yield from self._tool_called(namespace, {"id": call_id, "name": message.get("name") or "", "args": {}})
        if message.get("status") == "error":
            yield "tools", namespace, {"event": "tool-error", "tool_call_id": call_id, "message": str(message["content"])}
        else:
            yield "tools", namespace, {"event": "tool-finished", "tool_call_id": call_id, "output": message["content"]}


def _custom(data: Any) -> dict[str, Any]:
    """What a node wrote; `{"name", "payload"}` names its own channel."""
    if isinstance(data, dict) and data.keys() == {"name", "payload"} and isinstance(data["name"], str):
        return data
    return {"payload": data}


def _checkpoint_id(config: Any) -> str | None:
    return config["configurable"].get("checkpoint_id") if config else None


def _shortened(value: Any) -> Any:
    return [short(item) if is_message(item) else item for item in value] if isinstance(value, list) else value


def _begins(namespace: Namespace, prefix: Namespace) -> bool:
    """Whether `namespace` begins with `prefix`, whose steps may leave out the task."""
    if len(prefix) > len(namespace):
        return False
    return all(step in (given, given.partition(":")[0]) for given, step in zip(namespace, prefix, strict=False))


def _milliseconds(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp() * 1000) if at else 0
