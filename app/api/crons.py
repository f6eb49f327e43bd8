"""Routes of crons: runs that are started again and again, on a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, create_model

from app.api.deps import CallerDep, ServicesDep, TenantDep
from app.api.new_run import NewRun
from app.api.problems import problem_responses
from app.api.schemas import Metadata, RunConfig, RunCreate, StatelessRunCreate, StreamMode
from app.crons.service import CronSpec
from app.storage.redis.crons import CronRecord

router = APIRouter(tags=["crons"], responses=problem_responses(401, 503))
_REFUSALS = problem_responses(404, 409, 413, 422)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _RunFields(BaseModel):
    """What each of a cron's runs is given, as in the body of a run; null: the default there."""

    input: dict[str, JsonValue] | None = Field(None, description="What each run is given.")
    config: RunConfig | None = None
    context: dict[str, JsonValue] | None = Field(None, description="What the graph is told besides its input.")
    metadata: Metadata | None = Field(None, description="Free data of the cron and of each of its runs.")
    interrupt_before: list[str] | Literal["*"] | None = Field(None, description="Nodes to stop before.")
    interrupt_after: list[str] | Literal["*"] | None = Field(None, description="Nodes to stop after.")
    webhook: str | None = Field(None, max_length=2048, description="An address that is told of each run's end.")
    multitask_strategy: Literal["reject", "enqueue", "interrupt", "rollback"] | None = Field(
        None, description="What to do if the thread is busy when a run is due. With `reject` that run is left out."
    )
    stream_mode: Annotated[list[StreamMode] | None, BeforeValidator(_listed)] = Field(None, description="One mode, or a list.")
    stream_subgraphs: bool | None = Field(None, description="Log the events of subgraphs too.")
    stream_resumable: bool | None = Field(None, description="Keep the events for 24 hours after each run instead of one minute.")
    durability: Literal["async", "sync", "exit"] | None = Field(None, description="When checkpoints are written.")


_RUN_FIELDS = frozenset(_RunFields.model_fields)
Schedule = Annotated[
    str,
    Field(
        min_length=1,
        description="Five fields (minute, hour, day, month, weekday), or a sixth for seconds; or `@hourly`, `@daily` and their like.",
        examples=["0 9 * * mon-fri"],
    ),
]
_TIMEZONE = Field(None, description="IANA name of the time zone of the schedule; null: UTC.", examples=["Europe/Madrid"])
_END_TIME = Field(None, description="No run is due after this; without an offset it is UTC.")


class ThreadCronCreate(_RunFields):
    """A cron to be made whose runs execute on one thread."""

    assistant_id: str = Field(min_length=1, description="Name of a graph, or id of an assistant.", examples=["supervisor"])
    schedule: Schedule
    timezone: str | None = _TIMEZONE
    end_time: datetime | None = _END_TIME
    enabled: bool | None = Field(None, description="Whether it starts runs; null: yes.")


class CronCreate(ThreadCronCreate):
    """A cron to be made whose runs execute on a thread of their own each."""

    on_run_completed: Literal["delete", "keep"] | None = Field(
        None, description="What happens to a run's thread: it goes a day after the run (`delete`, the default), or stays."
    )


class CronPatch(_RunFields):
    """A change of a cron: what is given replaces what is there; only `end_time` can be taken away by null."""

    schedule: Schedule | None = None
    timezone: str | None = _TIMEZONE
    end_time: datetime | None = _END_TIME
    enabled: bool | None = Field(None, description="False: no run is started until it is true again.")
    on_run_completed: Literal["delete", "keep"] | None = Field(None, description="Nothing on the cron of a thread.")


class Cron(BaseModel):
    """Runs on a schedule."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    cron_id: UUID
    assistant_id: UUID
    thread_id: UUID | None = Field(description="The thread that the runs execute on; null: each on one of its own.")
    on_run_completed: Literal["delete", "keep"] | None
    end_time: datetime | None
    schedule: str
    timezone: str | None
    created_at: datetime
    updated_at: datetime
    payload: dict[str, Any] = Field(description="What each run is given.")
    user_id: None = Field(None, description="Always null; kept for the protocol.")
    next_run_date: datetime | None = Field(description="When it is due next; null: it is disabled, or has ended.")
    metadata: Metadata
    enabled: bool
    ended_by: Literal["end_time", "schedule", "thread_deleted"] | None = Field(None, description="Why it will never be due again.")
    last_error: dict[str, str] | None = Field(None, description="Why the latest time that it was due started no run: `code`, `detail`.")

    @classmethod
    def of(cls, cron: CronRecord) -> Cron:
        """The cron as callers see it."""
        return cls.model_validate(
            {
                **{name: getattr(cron, name) for name in cls.model_fields.keys() & CronRecord.__slots__},
                "end_time": cron.end_at,
                "next_run_date": cron.tick,
                "ended_by": cron.ended_by or None,
            }
        )


CronField = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "on_run_completed",
    "end_time",
    "schedule",
    "timezone",
    "created_at",
    "updated_at",
    "payload",
    "user_id",
    "next_run_date",
    "metadata",
    "enabled",
    "ended_by",
    "last_error",
]
_parts: dict[str, Any] = {name: (field.annotation | None, None) for name, field in Cron.model_fields.items()}  # type: ignore[operator]
FoundCron = create_model("FoundCron", __doc__="A cron, or the fields of it that were selected.", **_parts)


class CronFilter(BaseModel):
    """Which crons are meant."""

    assistant_id: str | None = Field(None, description="Id of an assistant, or name of its graph.")
    thread_id: UUID | None = None
    metadata: Metadata | None = Field(None, description="What the metadata must hold.")


class CronSearch(CronFilter):
    """Which crons are wanted, and what of them."""

    enabled: bool | None = None
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0)
    sort_by: Literal["cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time"] = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: list[CronField] | None = Field(None, min_length=1, description="Only these fields of each.")


@router.post("/runs/crons", name="create_cron", responses=_REFUSALS)
async def create_cron(body: CronCreate, request: Request, services: ServicesDep, caller: CallerDep) -> Cron:
    """Run an assistant again and again, each time on a thread of its own."""
    how = body.on_run_completed or "delete"
    spec = _spec(NewRun(request, services, caller), body, {"assistant_id": body.assistant_id, **_given(body)}, None, how)
    return Cron.of(await services.crons.create(caller.tenant, caller.key_id, spec))


@router.post("/threads/{thread_id}/runs/crons", name="create_thread_cron", responses=_REFUSALS)
async def create_thread_cron(thread_id: UUID, body: ThreadCronCreate, request: Request, services: ServicesDep, caller: CallerDep) -> Cron:
    """Run an assistant on a thread again and again."""
    payload = {"assistant_id": body.assistant_id, **_given(body)}
    spec = _spec(NewRun(request, services, caller), body, payload, str(thread_id), None)
    return Cron.of(await services.crons.create(caller.tenant, caller.key_id, spec))


@router.post("/runs/crons/search", name="search_crons", responses=problem_responses(413, 422), response_model_exclude_unset=True)
async def search_crons(body: CronSearch, services: ServicesDep, tenant: TenantDep, response: Response) -> list[FoundCron]:
    """The crons that fit."""
    found = [Cron.of(cron) for cron in await _find(services, tenant, body, body.enabled)]
    # What has no value comes last, whatever the order.
    having = [cron for cron in found if getattr(cron, body.sort_by) is not None]
    having.sort(key=lambda cron: (getattr(cron, body.sort_by), cron.created_at), reverse=body.sort_order == "desc")
    ordered = having + [cron for cron in found if getattr(cron, body.sort_by) is None]
    if body.offset + body.limit < len(ordered):
        response.headers["X-Pagination-Next"] = str(body.offset + body.limit)
    wanted: set[str] | None = set(body.select) if body.select else None
    return [FoundCron(**cron.model_dump(include=wanted)) for cron in ordered[body.offset : body.offset + body.limit]]


@router.post("/runs/crons/count", name="count_crons", responses=problem_responses(413, 422))
async def count_crons(body: CronFilter, services: ServicesDep, tenant: TenantDep) -> int:
    """How many crons fit."""
    return len(await _find(services, tenant, body, None))


@router.patch("/runs/crons/{cron_id}", name="update_cron", responses=problem_responses(404, 413, 422))
async def update_cron(cron_id: UUID, body: CronPatch, request: Request, services: ServicesDep, caller: CallerDep) -> Cron:
    """Change a cron; a run that is due already is still started unless its schedule changes."""

    def revise(cron: CronRecord) -> CronSpec:
        payload = {**cron.payload, **_given(body)}
        how = cron.on_run_completed and (body.on_run_completed or cron.on_run_completed)
        return _spec(NewRun(request, services, caller), body, payload, cron.thread_id, how, cron)

    return Cron.of(await services.crons.update(caller.tenant, str(cron_id), revise))


@router.delete("/runs/crons/{cron_id}", name="delete_cron", status_code=204, responses=problem_responses(404, 422))
async def delete_cron(cron_id: UUID, services: ServicesDep, tenant: TenantDep) -> None:
    """Remove a cron; the runs that it has started stay."""
    await services.crons.delete(tenant, str(cron_id))


def _given(body: _RunFields) -> dict[str, Any]:
    """The run's fields that the body gives."""
    given = body.model_dump(mode="json", include=set(_RUN_FIELDS), exclude_unset=True)
    return {name: value for name, value in given.items() if value is not None}


def _spec(
    new: NewRun,
    body: ThreadCronCreate | CronPatch,
    payload: dict[str, Any],
    thread_id: str | None,
    on_run_completed: str | None,
    known: CronRecord | None = None,
) -> CronSpec:
    """What the body says of a cron, on top of what is known of it; the payload becomes a request as that of any other run does."""
    kind, more = (RunCreate, {}) if thread_id else (StatelessRunCreate, {"on_completion": on_run_completed})
    run = kind.model_validate({**payload, **more})
    end_at = body.end_time if known is None or "end_time" in body.model_fields_set else known.end_at
    return CronSpec(
        thread_id=thread_id,
        schedule=body.schedule or (known.schedule if known else ""),
        timezone=body.timezone or (known.timezone if known else None),
        end_at=end_at.replace(tzinfo=end_at.tzinfo or UTC) if end_at is not None else None,
        enabled=body.enabled if body.enabled is not None else known is None or known.enabled,
        on_run_completed=on_run_completed,
        metadata=dict(payload.get("metadata") or {}),
        payload=payload,
        request=new.request_of(run, streams=True, is_background=True),
    )


async def _find(services: ServicesDep, tenant: str, wanted: CronFilter, enabled: bool | None) -> list[CronRecord]:
    thread_id = str(wanted.thread_id) if wanted.thread_id is not None else None
    metadata: Mapping[str, Any] = wanted.metadata or {}
    return await services.crons.find(tenant, assistant_id=wanted.assistant_id, thread_id=thread_id, enabled=enabled, metadata=metadata)
