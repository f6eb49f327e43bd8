"""What the stream of protocol v2 says, for the OpenAPI document: one schema per method, which is the channel but for `input.requested`.

On the wire an event is a Server-Sent Event whose name is the method, whose id is `seq`, and whose data is all of `ProtocolEvent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue, TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from app.api.stream_events import EVENT_ID, REFERENCE, TaskEvent, frame, one_of

_RUN_ID = "1f0c9a44-6c0e-4b0a-9d52-0a3d2b6f3a11"


class Lifecycle(BaseModel):
    """The graph, or a subgraph, begins or ends."""

    event: Literal["running", "started", "completed", "failed", "interrupted"] = Field(description="`started` is a subgraph's `running`.")
    graph_name: str | SkipJsonSchema[None] = None
    error: str | SkipJsonSchema[None] = Field(None, description="Why it failed.")
    namespace: list[str] | SkipJsonSchema[None] = Field(None, description="Where the subgraph is, when it begins.")
    trigger_call_id: str | SkipJsonSchema[None] = Field(None, description="The task that the subgraph is.")


class NodeUpdate(BaseModel):
    """What a node returned."""

    node: str
    values: dict[str, Any]


class MessagePart(BaseModel):
    """A message begins, a block of its content begins, grows or ends, it ends, or it is given up. Parts are put together by `id`."""

    event: Literal["message-start", "content-block-start", "content-block-delta", "content-block-finish", "message-finish", "error"]
    id: str = Field(description="The message's.")
    role: Literal["ai", "human", "system"] | SkipJsonSchema[None] = None
    metadata: dict[str, Any] | SkipJsonSchema[None] = Field(None, description="Where it comes from.")
    index: int | SkipJsonSchema[None] = Field(None, description="Which block.")
    content: dict[str, Any] | SkipJsonSchema[None] = Field(None, description="The block as it begins, or as a whole.")
    delta: dict[str, Any] | SkipJsonSchema[None] = Field(None, description="What a block grows by.")
    usage: dict[str, Any] | SkipJsonSchema[None] = Field(None, description="What it took, in tokens.")
    reason: str | SkipJsonSchema[None] = Field(None, description="Why the model ended it.")
    message: str | SkipJsonSchema[None] = Field(None, description="Why it was given up.")
    code: str | SkipJsonSchema[None] = None


class ToolCall(BaseModel):
    """A tool is called, has answered, or has failed."""

    event: Literal["tool-started", "tool-finished", "tool-error"]
    tool_call_id: str
    tool_name: str | SkipJsonSchema[None] = None
    input: dict[str, Any] | SkipJsonSchema[None] = None
    output: JsonValue = None
    message: str | SkipJsonSchema[None] = Field(None, description="Why it failed.")


class InputRequested(BaseModel):
    """A question that waits for `input.respond`."""

    interrupt_id: str
    payload: JsonValue = Field(description="What is asked, as the graph puts it.")
    value: JsonValue = Field(description="The same.")


class CheckpointWritten(BaseModel):
    """A checkpoint, right before the `values` that it holds."""

    id: str
    step: int
    source: str
    parent_id: str | SkipJsonSchema[None] = None


class CustomData(BaseModel):
    """Whatever a node wrote to the stream."""

    name: str | SkipJsonSchema[None] = Field(None, description="The channel `custom:<name>` has it too.")
    payload: JsonValue


_METHODS: Mapping[str, tuple[str, Any, str]] = MappingProxyType(
    {
        "lifecycle": ("ProtocolLifecycle", Lifecycle, "The graph, or a subgraph, begins or ends (channel `lifecycle`)."),
        "values": ("ProtocolValues", dict[str, Any], "The whole state after a step (channel `values`)."),
        "updates": ("ProtocolUpdates", NodeUpdate, "What a node returned (channel `updates`)."),
        "messages": ("ProtocolMessages", MessagePart, "A part of a message (channel `messages`)."),
        "tools": ("ProtocolTools", ToolCall, "A tool is called or has answered (channel `tools`)."),
        "input.requested": ("ProtocolInputRequested", InputRequested, "The run asks something (channel `input`)."),
        "checkpoints": ("ProtocolCheckpoints", CheckpointWritten, "A checkpoint was written (channel `checkpoints`)."),
        "tasks": ("ProtocolTasks", TaskEvent, "A task began or ended (channel `tasks`)."),
        "custom": ("ProtocolCustom", CustomData, "What a node wrote (channel `custom`, and `custom:<name>` if it has a name)."),
    }
)
"""Method → name of its schema, type of its data, and what it is."""


def schemas() -> dict[str, Any]:
    """The component schemas of all events, `ProtocolEvent` (one of them) among them."""
    adapters: list[tuple[str, Literal["serialization"], TypeAdapter[Any]]]
    adapters = [(method, "serialization", TypeAdapter(kind)) for method, (_, kind, _) in _METHODS.items()]
    data, components = TypeAdapter.json_schemas(adapters, ref_template=REFERENCE)
    found: dict[str, Any] = dict(components.get("$defs", {}))
    for method, (name, _, what) in _METHODS.items():
        found[name] = {
            "type": "object",
            "description": what,
            "required": ["type", "event_id", "seq", "method", "params"],
            "properties": {
                "type": {"type": "string", "const": "event"},
                "event_id": {"type": "string", "description": "Names the event; the run is a part of it."},
                "seq": {"type": "integer", "description": "Its number in the thread: send it as `since` to go on after it."},
                "method": {"type": "string", "const": method},
                "params": {
                    "type": "object",
                    "required": ["namespace", "timestamp", "data"],
                    "properties": {
                        "namespace": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "The path to the subgraph, each `node:task`; empty: the graph itself.",
                        },
                        "timestamp": {"type": "integer", "description": "Milliseconds since 1970."},
                        "data": {"description": "What it says.", **data[method, "serialization"]},
                    },
                },
            },
        }
    found["ProtocolEvent"] = one_of("method", {method: name for method, (name, *_) in _METHODS.items()}, "An event of protocol v2.")
    return found


def content() -> dict[str, Any]:
    """What the document says of a `text/event-stream` of protocol v2; see `stream_events.content`."""
    schema = {"$ref": REFERENCE.format(model="ProtocolEvent")}
    said = '"params":{"namespace":[],"timestamp":1795773600000,"data":{"event":"running","graph_name":"supervisor"}}'
    example = (
        f'event: lifecycle\ndata: {{"type":"event","event_id":"synth:{_RUN_ID}:10000","seq":10000,"method":"lifecycle",{said}}}\n'
        "id: 10000\n\n"
    )
    return {
        "schema": schema,
        "itemSchema": frame(schema, event={"type": "string", "enum": [*_METHODS]}, id=EVENT_ID),
        "examples": {"run": {"summary": "A run begins", "value": example}},
    }
