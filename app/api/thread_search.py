"""Routes of many threads at once: found, counted, thinned out, and one made of another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, JsonValue

from app.api.deps import ServicesDep, TenantDep
from app.api.problems import problem_responses
from app.api.schemas import Metadata, Thread
from app.storage.redis.threads import LifetimeStrategy, ThreadRecord, ThreadStatus
from app.threads.matching import MAX_PATHS, Path, at_path, parsed_path
from app.threads.search import ThreadQuery

router = APIRouter(tags=["threads"], responses=problem_responses(401, 503))
NEXT_PAGE = "X-Pagination-Next"
_NEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            NEXT_PAGE: {"description": "The `offset` of the next page; absent if there is none.", "schema": {"type": "string"}},
        }
    }
}
ThreadField = Literal[
    "thread_id", "created_at", "updated_at", "state_updated_at", "metadata", "status", "config", "context", "values", "interrupts", "error"
]  # fmt: skip


class ThreadFilter(BaseModel):
    """Which threads are wanted; all that is given must fit."""

    metadata: Metadata | None = Field(
        None, description="Their metadata hold all of this, objects and lists in part too.", examples=[{"graph_id": "supervisor"}]
    )
    values: dict[str, JsonValue] | None = Field(None, description="Their values hold all of this.")
    status: ThreadStatus | None = Field(None, description="Their status.")

    def as_query(self) -> ThreadQuery:
        """The same in the service's words."""
        return ThreadQuery(metadata=dict(self.metadata or {}), values=dict(self.values or {}), status=self.status)


class ThreadSearchRequest(ThreadFilter):
    """Which threads are wanted, and what of them."""

    ids: list[UUID] | None = Field(None, max_length=1000, description="Only these.")
    limit: int = Field(10, ge=1, le=1000, description="Most threads.")
    offset: int = Field(0, ge=0, description="How many to leave out first.")
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: list[ThreadField] | None = Field(None, description="Only these fields. Without `values` no states are read, which is faster.")
    extract: dict[str, str] | None = Field(
        None,
        max_length=MAX_PATHS,
        description="Paths into the threads by the names under which `extracted` gives what is there.",
        examples=[{"title": "metadata.title", "last": "values.messages[-1].content"}],
    )

    def as_query(self) -> ThreadQuery:
        """See `ThreadFilter`."""
        return ThreadQuery(
            ids=tuple(dict.fromkeys(map(str, self.ids))) if self.ids is not None else None,
            metadata=dict(self.metadata or {}),
            values=dict(self.values or {}),
            status=self.status,
            order=self.sort_by,
            is_descending=self.sort_order == "desc",
        )


class FoundThread(BaseModel):
    """A thread, or those of its fields that were asked for."""

    thread_id: UUID | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    state_updated_at: datetime | None = None
    metadata: Metadata | None = None
    status: ThreadStatus | None = None
    config: dict[str, JsonValue] | None = None
    context: dict[str, JsonValue] | None = Field(None, description="Always empty, and only if it is asked for; kept for the protocol.")
    values: dict[str, Any] | None = Field(None, description="The latest state; null before the first run.")
    interrupts: dict[str, list[dict[str, Any]]] | None = Field(None, description="What waits for an answer, by task.")
    error: dict[str, Any] | None = Field(None, description="Why the last run failed.")
    extracted: dict[str, Any] | None = Field(None, description="What is at the end of the paths of `extract`, by name.")


class PruneRequest(BaseModel):
    """Which threads to thin out, and how."""

    thread_ids: list[UUID] = Field(min_length=1, max_length=1000)
    strategy: LifetimeStrategy = Field("delete", description="Remove the threads, or all of their states but the latest.")


class Pruned(BaseModel):
    """How many threads were thinned out."""

    pruned_count: int = Field(description="Without those that were busy, and those that were not there.")


@router.post(
    "/threads/search",
    name="search_threads",
    response_model_exclude_unset=True,
    responses={**_NEXT, **problem_responses(413, 422)},
)
async def search_threads(body: ThreadSearchRequest, response: Response, services: ServicesDep, tenant: TenantDep) -> list[FoundThread]:
    """Threads by what they are, a page at a time."""
    paths = {name: parsed_path(path) for name, path in (body.extract or {}).items()}
    page, has_more = await services.search.page(tenant, body.as_query(), limit=body.limit, offset=body.offset)
    if has_more:
        response.headers[NEXT_PAGE] = str(body.offset + body.limit)
    needs_values = body.select is None or "values" in body.select or any(path[0] == "values" for path in paths.values())
    threads = []
    for found in page:
        values = found.values
        if needs_values and values is None:
            values = await services.threads.values(tenant, found.thread)
        threads.append(_shown(found.thread, values, body.select, paths))
    return threads


@router.post("/threads/count", name="count_threads", responses=problem_responses(413, 422))
async def count_threads(body: ThreadFilter, services: ServicesDep, tenant: TenantDep) -> int:
    """How many threads there are of that kind."""
    return await services.search.count(tenant, body.as_query())


@router.post("/threads/{thread_id}/copy", name="copy_thread", responses=problem_responses(404, 409, 422))
async def copy_thread(thread_id: UUID, services: ServicesDep, tenant: TenantDep) -> Thread:
    """A new thread with the metadata, the states and the open questions of this one; its runs are not copied."""
    record = await services.runs.copy_thread(tenant, str(thread_id))
    return Thread.of(record, await services.threads.values(tenant, record))


@router.post("/threads/prune", name="prune_threads", responses=problem_responses(413, 422))
async def prune_threads(body: PruneRequest, services: ServicesDep, tenant: TenantDep) -> Pruned:
    """Remove threads, or their older states. Busy ones, with a run under way, waiting or delayed, are passed over."""
    return Pruned(pruned_count=await services.runs.prune_threads(tenant, map(str, body.thread_ids), body.strategy))


def _shown(
    record: ThreadRecord, values: dict[str, Any] | None, select: Sequence[ThreadField] | None, paths: dict[str, Path]
) -> FoundThread:
    whole = Thread.of(record, values).model_dump(mode="json", exclude={"ttl"})
    shown = whole if select is None else {name: value for name, value in {**whole, "context": {}}.items() if name in select}
    if paths:
        shown["extracted"] = {name: at_path(whole, path) for name, path in paths.items()}
    return FoundThread.model_validate(shown)
