"""Routes of threads and their states."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response

from app.api.browser_scope import check_owner, check_thread
from app.api.deps import CallerDep, ServicesDep, TenantDep
from app.api.problems import problem_responses
from app.api.schemas import (
    CheckpointConfig,
    CheckpointId,
    HistoryRequest,
    StateAt,
    StateUpdate,
    StateUpdated,
    Thread,
    ThreadCreate,
    ThreadPatch,
    ThreadState,
    ThreadTimeToLive,
)
from app.guards.browser_tokens import SUBJECT

router = APIRouter(tags=["threads"], responses=problem_responses(401, 503))


@router.post("/threads", name="create_thread", responses=problem_responses(409, 413, 422))
async def create_thread(body: ThreadCreate, services: ServicesDep, caller: CallerDep) -> Thread:
    """Make a thread."""
    if caller.browser is not None:
        check_thread(body)
    thread_id = str(body.thread_id) if body.thread_id else None
    own = {SUBJECT: caller.browser.subject} if caller.browser is not None else {}
    record = await services.threads.create(
        caller.tenant,
        thread_id,
        {**(body.metadata or {}), **own},
        reuse=body.if_exists == "do_nothing",
        lifetime=body.ttl.as_lifetime() if body.ttl else None,
        supersteps=[[update.as_update() for update in step.updates] for step in body.supersteps or ()],
    )
    if caller.browser is not None:
        check_owner(caller.browser, record.thread_id, record.metadata)
    return Thread.of(record, await services.threads.values(caller.tenant, record) if body.supersteps else None)


@router.get("/threads/{thread_id}", name="get_thread", responses=problem_responses(404, 422))
async def get_thread(
    thread_id: UUID,
    services: ServicesDep,
    tenant: TenantDep,
    include: Annotated[
        str | None, Query(pattern=r"^(ttl(,ttl)*)?$", description="`ttl`: also say how long the thread is kept.", examples=["ttl"])
    ] = None,
) -> Thread:
    """A thread with its latest state."""
    record = await services.threads.get(tenant, str(thread_id))
    kept = await services.threads.lifetime(tenant, record) if include else None
    return Thread.of(record, await services.threads.values(tenant, record), ThreadTimeToLive.of(kept))


@router.patch(
    "/threads/{thread_id}",
    name="update_thread",
    responses={204: {"description": "`Prefer: return=minimal`"}, **problem_responses(404, 413, 422)},
)
async def update_thread(
    thread_id: UUID,
    body: ThreadPatch,
    services: ServicesDep,
    tenant: TenantDep,
    prefer: Annotated[str | None, Header(description="`return=minimal`: answer 204, without the thread.")] = None,
) -> Thread:
    """Add to a thread's metadata, or set how long it is kept."""
    lifetime = body.ttl.as_lifetime() if body.ttl else None
    record = await services.threads.merge(tenant, str(thread_id), dict(body.metadata or {}), lifetime)
    if prefer == "return=minimal":
        return Response(status_code=204)  # type: ignore[return-value]  # not part of the model
    return Thread.of(record, await services.threads.values(tenant, record))


@router.delete("/threads/{thread_id}", name="delete_thread", status_code=204, responses=problem_responses(404, 422))
async def delete_thread(thread_id: UUID, services: ServicesDep, tenant: TenantDep) -> None:
    """Remove a thread with its runs and states; what is under way on it is cancelled first."""
    await services.runs.delete_thread(tenant, str(thread_id))


@router.get("/threads/{thread_id}/state", name="get_thread_state", responses=problem_responses(404, 422))
async def get_thread_state(thread_id: UUID, services: ServicesDep, tenant: TenantDep, subgraphs: bool = False) -> ThreadState:
    """The latest state of a thread."""
    return ThreadState.model_validate(await services.threads.state(tenant, str(thread_id), subgraphs=subgraphs))


@router.get("/threads/{thread_id}/state/{checkpoint_id}", name="get_thread_state_at", responses=problem_responses(404, 422))
async def get_thread_state_at(
    thread_id: UUID, checkpoint_id: str, services: ServicesDep, tenant: TenantDep, subgraphs: bool = False
) -> ThreadState:
    """The state of a thread at a checkpoint."""
    return ThreadState.model_validate(await services.threads.state(tenant, str(thread_id), checkpoint_id, subgraphs=subgraphs))


@router.post("/threads/{thread_id}/state/checkpoint", name="get_thread_state_at_checkpoint", responses=problem_responses(404, 413, 422))
async def get_thread_state_at_checkpoint(thread_id: UUID, body: StateAt, services: ServicesDep, tenant: TenantDep) -> ThreadState:
    """The state of a thread, or of a subgraph of it, at a checkpoint."""
    at = body.checkpoint
    state = await services.threads.state(tenant, str(thread_id), at.checkpoint_id, at.checkpoint_ns, subgraphs=body.subgraphs)
    return ThreadState.model_validate(state)


@router.post("/threads/{thread_id}/state", name="update_thread_state", responses=problem_responses(404, 409, 413, 422))
async def update_thread_state(thread_id: UUID, body: StateUpdate, services: ServicesDep, tenant: TenantDep) -> StateUpdated:
    """Write a state by hand, on top of the latest or of an older one (a fork), as if a node had returned it."""
    checkpoint_id = body.checkpoint_id or (body.checkpoint.checkpoint_id if body.checkpoint else None)
    values = dict(body.values) if body.values is not None else None
    checkpoint = await services.runs.update_state(tenant, str(thread_id), values, as_node=body.as_node, checkpoint_id=checkpoint_id)
    return StateUpdated.model_validate({"checkpoint": checkpoint})


@router.get("/threads/{thread_id}/history", name="list_thread_history", responses=problem_responses(404, 422))
async def list_thread_history(
    thread_id: UUID,
    services: ServicesDep,
    tenant: TenantDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    before: Annotated[str | None, Query(description="Only states older than this checkpoint.")] = None,
) -> list[ThreadState]:
    """The states of a thread, the newest first."""
    states = await services.threads.history(tenant, str(thread_id), limit=limit, before=before, metadata=None)
    return [ThreadState.model_validate(state) for state in states]


@router.post("/threads/{thread_id}/history", name="get_thread_history", responses=problem_responses(404, 413, 422))
async def get_thread_history(thread_id: UUID, body: HistoryRequest, services: ServicesDep, tenant: TenantDep) -> list[ThreadState]:
    """The states of a thread, the newest first."""
    states = await services.threads.history(
        tenant,
        str(thread_id),
        limit=body.limit,
        before=_checkpoint_id(body.before),
        metadata=dict(body.metadata) if body.metadata else None,
        checkpoint_ns=body.checkpoint.checkpoint_ns if body.checkpoint else "",
    )
    return [ThreadState.model_validate(state) for state in states]


def _checkpoint_id(before: str | CheckpointId | CheckpointConfig | None) -> str | None:
    """Clients send three forms; all of them name a checkpoint."""
    if isinstance(before, CheckpointConfig):
        before = before.configurable
    return before.checkpoint_id if isinstance(before, CheckpointId) else before or None
