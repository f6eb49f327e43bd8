"""The wire types. Unknown fields are ignored, as the protocol wants it; what is named here is enforced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from app.api.stream_events import Interrupt, RunError
from app.runs.model import public_run
from app.storage.redis.runs import RunRecord, RunStatus
from app.storage.redis.threads import Lifetime, LifetimeStrategy, ThreadRecord, ThreadStatus
from app.threads.supersteps import SuperstepUpdate

StreamMode = Literal["values", "updates", "messages", "messages-tuple", "custom", "events", "tasks", "checkpoints", "debug"]
Metadata = dict[str, JsonValue]
MOST_MINUTES = 10 * 365 * 24 * 60.0
"""Longest time to live of a thread, minutes: ten years."""
MOST_SUPERSTEPS, MOST_UPDATES = 500, 100
"""Most steps of a history that a thread may begin with, and most updates of one of them."""


class _Output(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class TimeToLive(BaseModel):
    """How long a thread is kept after its last use, and what goes then."""

    ttl: float = Field(gt=0, le=MOST_MINUTES, description="Minutes.")
    strategy: LifetimeStrategy = Field("delete", description="`delete` the thread, or `keep_latest` of its states and the thread.")

    def as_lifetime(self) -> Lifetime:
        """The same in the service's words."""
        return Lifetime(self.ttl * 60, self.strategy)


def _minutes(value: Any) -> Any:
    return {"ttl": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


GivenTimeToLive = Annotated[
    TimeToLive | None, BeforeValidator(_minutes, json_schema_input_type=TimeToLive | float | None),
    Field(description="How long the thread is kept after its last use; a number is minutes after which it is deleted. Default: 30 days."),
]  # fmt: skip


class ThreadTimeToLive(_Output):
    """How long a thread is kept."""

    strategy: LifetimeStrategy
    ttl_minutes: float = Field(description="Minutes after its last use.")
    expires_at: datetime = Field(description="When that is over if nobody uses it.")

    @classmethod
    def of(cls, kept: tuple[Lifetime, datetime] | None) -> ThreadTimeToLive | None:
        """What `ThreadService.lifetime` says, as callers see it."""
        return cls(strategy=kept[0].strategy, ttl_minutes=kept[0].seconds / 60, expires_at=kept[1]) if kept else None


class StepCommand(BaseModel):
    """What a node is said to have returned in place of values."""

    update: dict[str, JsonValue] | list[tuple[str, JsonValue]] | None = Field(None, description="What it wrote: keys of a run's `input`.")
    goto: str | list[str] | None = Field(None, description="Where it went on to.")
    resume: None = Field(None, description="Must be null: there is nobody to be answered.")


class StepUpdate(BaseModel):
    """What one node is said to have done in a superstep."""

    values: dict[str, JsonValue] | None = Field(None, description="What it returned: keys of a run's `input`.")
    command: StepCommand | None = Field(None, description="What it returned in place of `values`.")
    as_node: str | None = Field(None, description="The node; `__input__` for an input.")

    def as_update(self) -> SuperstepUpdate:
        """The same in the service's words."""
        if self.command is None:
            return SuperstepUpdate(dict(self.values) if self.values is not None else None, self.as_node)
        goto = self.command.goto or ()
        update = dict(self.command.update) if self.command.update else None
        return SuperstepUpdate(None, self.as_node, update, (goto,) if isinstance(goto, str) else tuple(goto))


class Superstep(BaseModel):
    """One step of a history."""

    updates: list[StepUpdate] = Field(min_length=1, max_length=MOST_UPDATES)


class ThreadCreate(BaseModel):
    """A thread to be made."""

    thread_id: UUID | None = Field(None, description="Its id; without one the service chooses.")
    metadata: Metadata | None = Field(None, description="Free data to find it by.")
    if_exists: Literal["raise", "do_nothing"] = Field(
        "raise", description="What to do if there is one of this id: 409, or return it unchanged."
    )
    ttl: GivenTimeToLive = None
    supersteps: list[Superstep] | None = Field(
        None, max_length=MOST_SUPERSTEPS, description="The history that it begins with, of the graph that `metadata.graph_id` names."
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
    ttl: ThreadTimeToLive | None = Field(None, description="How long it is kept; null unless asked for with `include=ttl`.")

    @classmethod
    def of(cls, record: ThreadRecord, values: dict[str, Any] | None, ttl: ThreadTimeToLive | None = None) -> Thread:
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
            ttl=ttl,
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


RunField = Literal[
    "run_id", "thread_id", "assistant_id", "created_at", "updated_at", "status", "metadata", "kwargs", "multitask_strategy", "ended_by",
    "cancel_reason",
]  # fmt: skip


class RunFields(BaseModel):  # type: ignore[no-redef]  # as Run
    """A run, or those of its fields that were asked for."""

    run_id: UUID | None = None
    thread_id: UUID | None = None
    assistant_id: UUID | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    status: RunStatus | None = None
    metadata: Metadata | None = None
    multitask_strategy: str | None = None
    arguments: dict[str, JsonValue] | None = Field(
        None, validation_alias="kwargs", serialization_alias="kwargs", description="Always empty; kept for the protocol."
    )
    ended_by: Literal["user", "superseded"] | None = Field(None, description="Who ended the run from outside, if anybody did.")
    cancel_reason: Literal["user", "superseded"] | None = Field(None, description="The same; only if it is asked for.")

    @classmethod
    def of(cls, record: RunRecord, select: Sequence[RunField] | None) -> RunFields:
        """The run as callers see it; None: all of it."""
        run = public_run(record)
        if select is not None:
            run = {name: value for name, value in {**run, "cancel_reason": run["ended_by"]}.items() if name in select}
        return cls.model_validate(run)


class RunConfig(BaseModel):
    """Settings of the execution."""

    tags: list[str] = Field(default_factory=list, description="Words that events and traces of the run carry.")
    recursion_limit: int | None = Field(None, ge=1, description="Most supersteps; at most the graph's own limit.")
    configurable: dict[str, JsonValue] = Field(
        default_factory=dict, description="The older name of `context`: its keys count as context, others are passed over."
    )


class GoTo(BaseModel):
    """A node to go on with, on a state of its own."""

    node: str = Field(min_length=1, description="The node.")
    input: dict[str, JsonValue] = Field(default_factory=dict, description="What it is given: what a run's `input` may hold, and no more.")


class Command(BaseModel):
    """An answer to an interrupt, or a jump; takes the place of `input`."""

    resume: JsonValue = Field(None, description="The answer, or a map of interrupt id to answer.")
    update: dict[str, JsonValue] | list[tuple[str, JsonValue]] | None = Field(
        None, description="Changes to the state: what a run's `input` may hold, and no more."
    )
    goto: str | GoTo | list[str | GoTo] | None = Field(
        None, description="Nodes to go on with: by name with the thread's state, or with an input of their own."
    )


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
    ttl: GivenTimeToLive = None


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
