"""The wire types. Unknown fields are ignored, as the protocol wants it; what is named here is enforced."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from app.api.stream_events import Interrupt, RunError
from app.runs.model import public_run
from app.storage.redis.runs import RunRecord, RunStatus
from app.storage.redis.threads import ThreadRecord, ThreadStatus

StreamMode = Literal["values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug"]
Metadata = dict[str, JsonValue]


class _Output(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class ThreadCreate(BaseModel):
    """A thread to be made."""

    thread_id: UUID | None = Field(None, description="Its id; without one the service chooses.")
    metadata: Metadata | None = Field(None, description="Free data to find it by.")
    if_exists: Literal["raise", "do_nothing"] = Field(
        "raise", description="What to do if there is one of this id: 409, or return it unchanged."
    )


class Thread(_Output):
    """A conversation."""

    thread_id: UUID
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    metadata: Metadata
    status: ThreadStatus
    config: dict[str, JsonValue] = Field(default_factory=dict)
    values: dict[str, Any] | None = Field(None, description="The latest state; null before the first run.")
    interrupts: dict[str, list[Interrupt]] = Field(default_factory=dict, description="What waits for an answer, by task.")
    error: RunError | None = Field(None, description="Why the last run failed.")

    @classmethod
    def of(cls, record: ThreadRecord, values: dict[str, Any] | None) -> Thread:
        """The thread as callers see it; `values` are plain JSON."""
        return cls(
            thread_id=UUID(record.thread_id),
            created_at=record.created_at,
            updated_at=record.updated_at,
            state_updated_at=record.state_updated_at,
            metadata=record.metadata,
            status=record.status,
            values=values,
            interrupts={task: [Interrupt.model_validate(one) for one in waiting] for task, waiting in record.interrupts.items()},
            error=RunError.model_validate(record.error) if record.error else None,
        )


class Run(_Output):  # type: ignore[no-redef]  # the type checker takes the alias "kwargs" for **kwargs
    """One execution of an assistant on a thread."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    created_at: datetime
    updated_at: datetime
    status: RunStatus
    metadata: Metadata
    multitask_strategy: str
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict, validation_alias="kwargs", serialization_alias="kwargs", description="Always empty; kept for the protocol."
    )
    ended_by: Literal["user", "superseded"] | None = Field(None, description="Who ended the run from outside, if anybody did.")

    @classmethod
    def of(cls, record: RunRecord) -> Run:
        """The run as callers see it."""
        return cls.model_validate(public_run(record))


class RunConfig(BaseModel):
    """Settings of the execution."""

    tags: list[str] = Field(default_factory=list, description="Words that events and traces of the run carry.")
    recursion_limit: int | None = Field(None, ge=1, description="Most supersteps; at most the graph's own limit.")
    configurable: dict[str, JsonValue] = Field(
        default_factory=dict, description="The older name of `context`: its keys count as context, others are passed over."
    )


class Command(BaseModel):
    """An answer to an interrupt, or a jump; takes the place of `input`."""

    resume: JsonValue = Field(None, description="The answer, or a map of interrupt id to answer.")
    update: dict[str, JsonValue] | list[tuple[str, JsonValue]] | None = Field(
        None, description="Changes to the state: what a run's `input` may hold, and no more."
    )
    goto: str | list[str] | None = Field(None, description="Nodes to go on with.")


class CheckpointRef(BaseModel):
    """A state to begin from; the path's thread wins over any thread named here."""

    checkpoint_id: str | None = None
    checkpoint_ns: str = ""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class RunCreate(BaseModel):
    """A run to be made on a thread."""

    assistant_id: str = Field(min_length=1, description="Name of a graph, or id of an assistant.", examples=["supervisor"])
    input: dict[str, JsonValue] | None = Field(
        None,
        description="What the run is given; null continues from the checkpoint.",
        examples=[{"messages": [{"role": "user", "content": "Why was I charged a fee for my transfer?"}]}],
    )
    command: Command | None = None
    config: RunConfig = Field(default_factory=RunConfig)
    context: dict[str, JsonValue] | None = Field(
        None,
        description="What to do otherwise than usual, by the graph's `context_schema`; counts more than the assistant's, key by key.",
        examples=[{"answer_at": 0.8}],
    )
    metadata: Metadata | None = None
    stream_mode: Annotated[list[StreamMode], BeforeValidator(_listed)] = Field(["values"], description="One mode, or a list.")
    stream_subgraphs: bool = Field(False, description="Stream the events of subgraphs too.")
    stream_resumable: bool = Field(False, description="Keep the events for 24 hours after the run instead of one minute.")
    interrupt_before: list[str] | Literal["*"] = Field(default_factory=list, description="Nodes to stop before.")
    interrupt_after: list[str] | Literal["*"] = Field(default_factory=list, description="Nodes to stop after.")
    checkpoint: CheckpointRef | None = Field(None, description="Begin from this state of the thread instead of the latest.")
    checkpoint_id: str | None = Field(None, description="The same, by id.")
    multitask_strategy: Literal["reject", "enqueue", "interrupt", "rollback"] = Field(
        "enqueue",
        description="What to do on a busy thread: refuse, wait, end what is under way and keep what it wrote, or end and undo it.",
    )
    if_not_exists: Literal["reject", "create"] = Field("reject", description="What to do if there is no such thread: 404, or make it.")
    on_disconnect: Literal["continue", "cancel"] = Field("continue", description="What happens to the run when the caller leaves.")
    durability: Literal["async", "sync", "exit"] = Field("async", description="When checkpoints are written.")

    after_seconds: float = Field(0.0, ge=0.0, le=30 * 24 * 3600, description="Begin that much later; the run is pending until then.")
    webhook: str | None = Field(None, max_length=2048, description="An address that is told of the run's end, signed and retried.")


class StatelessRunCreate(RunCreate):
    """A run without a thread of the caller's."""

    on_completion: Literal["delete", "keep"] = Field("delete", description="What happens to the run's own thread at its end.")


class CheckpointId(BaseModel):
    """A checkpoint object."""

    checkpoint_id: str = Field(min_length=1)


class CheckpointConfig(BaseModel):
    """A config that holds a checkpoint."""

    configurable: CheckpointId


class RunsCancel(BaseModel):
    """Which runs to end: some of a thread, or all of a status."""

    thread_id: UUID | None = None
    run_ids: list[UUID] | None = Field(None, max_length=1000)
    status: Literal["pending", "running", "all"] | None = Field(None, description="All of the tenant's runs of this status.")

    @model_validator(mode="after")
    def _is_one_form(self) -> RunsCancel:
        given = [field is not None for field in (self.thread_id, self.run_ids, self.status)]
        if given not in ([True, True, False], [False, False, True]):
            raise ValueError("give either thread_id and run_ids, or status")
        return self


class Checkpoint(_Output):
    """Names one state of a thread."""

    thread_id: str
    checkpoint_ns: str = ""
    checkpoint_id: str | None = None


class ThreadPatch(BaseModel):
    """A change of a thread."""

    metadata: Metadata | None = Field(None, description="Merged into what is there, key by key.")


class StateAt(BaseModel):
    """Which state of a thread is wanted."""

    checkpoint: CheckpointRef
    subgraphs: bool = Field(False, description="With the states of subgraphs.")


class StateUpdate(BaseModel):
    """A state to be written on top of another."""

    values: dict[str, JsonValue] | None = Field(None, description="What a node would have returned: keys of a run's `input`.")
    as_node: str | None = Field(None, description="The node that is said to have returned them; it decides what comes next.")
    checkpoint: CheckpointRef | None = Field(None, description="The state to begin from instead of the latest.")
    checkpoint_id: str | None = Field(None, description="The same, by id.")


class StateUpdated(_Output):
    """The state that was written."""

    checkpoint: Checkpoint


class HistoryRequest(BaseModel):
    """Which states of a thread are wanted."""

    limit: int = Field(1, ge=1, le=1000)
    before: str | CheckpointId | CheckpointConfig | None = Field(
        None, description="Only states older than this checkpoint: its id, a checkpoint object, or a config that holds one."
    )
    metadata: Metadata | None = Field(None, description="Only states whose metadata hold all of this.")
    checkpoint: CheckpointRef | None = Field(None, description="The subgraph (`checkpoint_ns`) whose states are wanted.")


class Task(_Output):
    """A node that comes next."""

    id: str
    name: str = Field(description="The node.")
    path: list[Any]
    error: str | None = Field(description="Why it failed.")
    interrupts: list[Interrupt] = Field(description="What it asks.")
    checkpoint: dict[str, Any] | None = Field(description="Of a node with a subgraph: names the subgraph's state.")
    state: ThreadState | None = Field(description="The subgraph's state itself, if `subgraphs` was asked for.")
    result: Any


class ThreadState(_Output):
    """A thread at one moment."""

    values: dict[str, Any]
    next: list[str] = Field(description="The nodes that come next.")
    tasks: list[Task]
    metadata: dict[str, Any]
    created_at: str | None = None
    checkpoint: Checkpoint | None
    parent_checkpoint: Checkpoint | None
    checkpoint_id: str | None = Field(None, deprecated=True)
    parent_checkpoint_id: str | None = Field(None, deprecated=True)
    interrupts: list[Interrupt]
