"""Routes of threads and their states."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from app.api.deps import ServicesDep, TenantDep
from app.api.problems import problem_responses
from app.api.schemas import CheckpointConfig, CheckpointId, HistoryRequest, Thread, ThreadCreate, ThreadState

router = APIRouter(tags=["threads"], responses=problem_responses(401, 503))


@router.post("/threads", name="create_thread", responses=problem_responses(409, 413, 422))
async def create_thread(body: ThreadCreate, services: ServicesDep, tenant: TenantDep) -> Thread:
    """Make a thread."""
    thread_id = str(body.thread_id) if body.thread_id else None
    record = await services.threads.create(tenant, thread_id, dict(body.metadata or {}), reuse=body.if_exists == "do_nothing")
    return Thread.of(record, None)


@router.get("/threads/{thread_id}", name="get_thread", responses=problem_responses(404, 422))
async def get_thread(thread_id: UUID, services: ServicesDep, tenant: TenantDep) -> Thread:
    """A thread with its latest state."""
    record = await services.threads.get(tenant, str(thread_id))
    return Thread.of(record, await services.threads.values(tenant, record))


@router.get("/threads/{thread_id}/state", name="get_thread_state", responses=problem_responses(404, 422))
async def get_thread_state(thread_id: UUID, services: ServicesDep, tenant: TenantDep, subgraphs: bool = False) -> ThreadState:
    """The latest state of a thread."""
    return ThreadState.model_validate(await services.threads.state(tenant, str(thread_id), subgraphs=subgraphs))


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
