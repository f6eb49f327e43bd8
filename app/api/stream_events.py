"""What a run's stream says, for the OpenAPI document: one schema per event, told apart by the event's name.

On the wire an event is a Server-Sent Event: `event` is its name, with `|` and the path of the subgraph behind it if a subgraph says it,
and `data` one line of JSON. Clients that read the document get two views of the same table: `itemSchema` of the media type is the frame
on the wire, and `StreamEvent` is what a client makes of it, with the name's two parts apart and the data parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from app.storage.redis.runs import RunStatus

MEDIA_TYPE = "text/event-stream"
REFERENCE = "#/components/schemas/{model}"
EVENT_ID = {"type": "string", "pattern": "^[0-9]+$"}
_RUN_ID = "1f0c9a44-6c0e-4b0a-9d52-0a3d2b6f3a11"


class _Open(BaseModel):
    """What a graph or a library writes: the named fields are always there, others may be."""

    model_config = ConfigDict(extra="allow", json_schema_serialization_defaults_required=True)


class Interrupt(_Open):
    """A question that waits for an answer; answer it with `command.resume`."""

    id: str = Field(description="Names it, where several wait.")
    value: Any = Field(description="What is asked, as the graph puts it.")
    response_schema: dict[str, Any] | None = Field(None, description="JSON Schema of the answer, if the graph has one.")


class RunError(_Open):
    """Why a run failed."""

    error: str = Field(description="The kind of error.", examples=["DeadlineExceeded"])
    message: str = Field(description="What happened, in a sentence.", examples=["the run did not end within its deadline"])
    code: str = Field(description="A stable word for it.", examples=["deadline_exceeded"])


class RunValues(BaseModel):
    """The values of a state; which keys there are is the graph's choice."""

    model_config = ConfigDict(extra="allow")

    interrupt: list[Interrupt] | SkipJsonSchema[None] = Field(None, alias="__interrupt__", description="What the run asks, if it does.")
    error: RunError | SkipJsonSchema[None] = Field(None, alias="__error__", description="Why it failed; only where a run is waited for.")


class Message(_Open):
    """A message, flat; a piece of one while it is being written (`AIMessageChunk`). Readers put pieces together by `id`."""

    type: str = Field(description="Who speaks: `human`, `ai`, `system`, `tool`; of a piece `AIMessageChunk`.", examples=["ai"])
    id: str | None = Field(description="The same for all pieces of a message.")
    content: str | list[Any] = Field(description="The text, or blocks of content.", examples=["A fee of 1 % applies."])
    name: str | None = None
    additional_kwargs: dict[str, Any] = Field(default_factory=dict)
    response_metadata: dict[str, Any] = Field(default_factory=dict)


class MessageMetadata(_Open):
    """Where a message comes from; besides the named fields whatever metadata the run carries."""

    langgraph_node: str = Field(description="The node that speaks: a specialist's name, for one.")
    run_id: str = ""
    thread_id: str = ""


class MessageDescription(BaseModel):
    """The metadata of one message."""

    metadata: MessageMetadata


class Attempt(_Open):
    """Which run it is; said again when another process goes on with it."""

    run_id: UUID
    attempt: int = Field(description="From 1; after a higher one, drop what the next `values` lacks.")


class RunDone(BaseModel):
    """One of the thread's runs has ended; the stream goes on."""

    status: Literal["run_done"]
    run_id: UUID


class StateWritten(BaseModel):
    """A state that was written by hand."""

    thread_id: UUID
    state: dict[str, Any] = Field(description="As `GET /threads/{thread_id}/state` has it.")


class RunEnd(BaseModel):
    """How the run ended."""

    run_id: UUID
    status: RunStatus


class TaskEvent(_Open):
    """A task begins (`input`, `triggers`) or ends (`error`, `result`, `interrupts`)."""

    id: str
    name: str = Field(description="The node.")


class CheckpointEvent(_Open):
    """A checkpoint that was written."""

    config: dict[str, Any] | None
    metadata: dict[str, Any]
    values: dict[str, Any]
    next: list[str]
    parent_config: dict[str, Any] | None
    tasks: list[dict[str, Any]]


class DebugEvent(_Open):
    """Everything a graph tells of itself."""

    step: int
    timestamp: str
    type: Literal["checkpoint", "task", "task_result"]
    payload: dict[str, Any]


class LangChainEvent(_Open):
    """An event of LangChain's `astream_events` (version 2)."""

    event: str
    name: str
    run_id: str
    data: dict[str, Any]
    tags: list[str]
    metadata: dict[str, Any]
    parent_ids: list[str]


_EVENTS: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "metadata": (Attempt, "First of all, and again with every attempt: which run it is."),
        "values": (RunValues, "The whole state after a step (mode `values`); with `__interrupt__` if the run asks something."),
        "updates": (dict[str, Any], "What each node returned (mode `updates`); under `__interrupt__` what the run asks."),
        "messages": (tuple[Message, MessageMetadata], "A piece of a message and where it comes from (mode `messages-tuple`)."),
        "messages/metadata": (dict[str, MessageDescription], "Once per message, by its id: where it comes from (mode `messages`)."),
        "messages/partial": (list[Message], "A message so far (mode `messages`)."),
        "messages/complete": (list[Message], "A message that came at once (mode `messages`)."),
        "custom": (Any, "Whatever a node wrote to the stream (mode `custom`)."),
        "tasks": (TaskEvent, "A task began or ended (mode `tasks`)."),
        "checkpoints": (CheckpointEvent, "A checkpoint was written (mode `checkpoints`)."),
        "debug": (DebugEvent, "Tasks and checkpoints with all their details (mode `debug`)."),
        "events": (LangChainEvent, "What LangChain's callbacks see (mode `events`)."),
        "error": (RunError, "Last of all, if the run failed."),
        "end": (RunEnd, "Last of all, if it did not."),
    }
)
"""Event name → type of its data, and when it comes."""
_OF_THREADS: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "metadata": (Attempt | RunDone, "First of each run, and in place of its `end`: the run is done. A failed run says `error` before."),
        "state_update": (StateWritten, "A state was written by hand (mode `state_update`)."),
    }
)
"""The same of a thread's stream, where it is not that of its runs."""


def event_class(name: str) -> str:
    """The schema's name of the event `name`: `messages/partial` → `MessagesPartialStreamEvent`."""
    return "".join(part.capitalize() for part in name.split("/")) + "StreamEvent"


def _classes_of_threads() -> dict[str, str]:
    """Event name → schema, of a thread's stream."""
    own = {name: "Thread" + "".join(part.capitalize() for part in name.split("_")) + "StreamEvent" for name in _OF_THREADS}
    return {**{name: event_class(name) for name in _EVENTS if name != "end"}, **own}


def schemas() -> dict[str, Any]:
    """The component schemas of all events, and one of those that the stream of a run, or of a thread, may have."""
    classes = {name: event_class(name) for name in _EVENTS}
    of_threads = _classes_of_threads()
    table = [(classes[name], name, *said) for name, said in _EVENTS.items()]
    table += [(of_threads[name], name, *said) for name, said in _OF_THREADS.items()]
    adapters: list[tuple[str, Literal["serialization"], TypeAdapter[Any]]]
    adapters = [(kind, "serialization", TypeAdapter(data_type)) for kind, _, data_type, _ in table]
    data, components = TypeAdapter.json_schemas(adapters, ref_template=REFERENCE)
    found: dict[str, Any] = dict(components.get("$defs", {}))
    for kind, name, _, when in table:
        found[kind] = {
            "type": "object",
            "description": when,
            "required": ["event", "namespace", "data"],
            "properties": {
                "event": {"type": "string", "const": name, "description": "The part of the name before `|`."},
                "namespace": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "The parts of the name behind `|`: the path to the subgraph, each `node:task`; empty: the graph itself.",
                },
                "id": {"type": "string", "description": "Its number in the run's log: send it as `Last-Event-ID` to go on after it."},
                "data": {"description": "What it says.", **data[kind, "serialization"]},
            },
        }
    found["StreamEvent"] = one_of(
        "event", classes, "An event of a run's stream. The first is `metadata`, and the last one `end` or `error`."
    )
    found["ThreadStreamEvent"] = one_of("event", of_threads, "An event of a thread's stream, which has those of all its runs.")
    return found


def one_of(key: str, classes: Mapping[str, str], description: str) -> dict[str, Any]:
    """The schema of what is told apart by its field `key`; `classes` is value → schema."""
    mapping = {name: REFERENCE.format(model=kind) for name, kind in classes.items()}
    return {
        "description": description,
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": key, "mapping": mapping},
    }


def frame(data: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """The schema of one Server-Sent Event that carries `data` as JSON."""
    carried = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {"type": "object", "required": [*(["event"] if "event" in fields else ()), "data"], "properties": {**fields, "data": carried}}


def content() -> dict[str, Any]:
    """What the document says of a `text/event-stream` with a run's events.

    `itemSchema` is OpenAPI 3.2's word for one event. Generators that do not know it take `schema` for the type of what a stream yields.
    """
    example = (
        f'event: metadata\ndata: {{"run_id":"{_RUN_ID}","attempt":1}}\nid: 1\n\n'
        'event: custom|look_up:5f1c\ndata: {"looked_up":"fees"}\nid: 2\n\n'
        f'event: end\ndata: {{"run_id":"{_RUN_ID}","status":"success"}}\nid: 3\n\n'
    )
    return _content("StreamEvent", {name: event_class(name) for name in _EVENTS}, "The frames of a short run", example)


def thread_content() -> dict[str, Any]:
    """The same of a `text/event-stream` with the events of all runs of a thread."""
    example = (
        f'event: metadata\ndata: {{"run_id":"{_RUN_ID}","attempt":1}}\nid: 1\n\n'
        f'event: metadata\ndata: {{"status":"run_done","run_id":"{_RUN_ID}"}}\nid: 3\n\n'
    )
    return _content("ThreadStreamEvent", _classes_of_threads(), "A run begins and ends", example)


def _content(schema: str, classes: Mapping[str, str], summary: str, example: str) -> dict[str, Any]:
    every = {"anyOf": [{"$ref": f"{REFERENCE.format(model=kind)}/properties/data"} for kind in classes.values()]}
    name = {"type": "string", "pattern": rf"^({'|'.join(classes)})(\|.+)?$"}
    return {
        "schema": {"$ref": REFERENCE.format(model=schema)},
        "itemSchema": frame(every, event=name, id=EVENT_ID),
        "examples": {"run": {"summary": summary, "value": example}},
    }
