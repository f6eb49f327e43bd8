"""Routes of runs: start one and wait for it or follow it, read one, follow it again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter, ValidationError

from app.api.deps import ServicesDep, TenantDep
from app.api.problems import problem_responses
from app.api.schemas import Run, RunCreate, StatelessRunCreate
from app.api.sse import HEARTBEAT, event_stream, frames
from app.errors import InvalidInput
from app.runs.service import RunRequest, RunService, StartedRun
from app.threads.plain import to_json

router = APIRouter(tags=["runs"], responses=problem_responses(401, 503))
_REFUSALS = problem_responses(400, 404, 409, 413, 422)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The run's events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
_VALUES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The final values; `__interrupt__` if the run asks something, `__error__` if it failed.",
        "content": {"application/json": {"schema": {"type": "object", "additionalProperties": True}}},
    }
}
_MODES = TypeAdapter(list[str])
_EVENT_ID = re.compile(r"[0-9]{1,18}")


@router.post("/threads/{thread_id}/runs/wait", name="wait_for_run", response_class=StreamingResponse, responses={**_VALUES, **_REFUSALS})
async def wait_for_run(thread_id: UUID, body: RunCreate, request: Request, services: ServicesDep, tenant: TenantDep) -> StreamingResponse:
    """Run an assistant on a thread and wait for its final values."""
    started = await services.runs.start(tenant, str(thread_id), run_request(body, waits=True))
    return _wait(services.runs, started, body, _run_path(request, started))


@router.post("/threads/{thread_id}/runs/stream", name="stream_run", response_class=StreamingResponse, responses={**_STREAM, **_REFUSALS})
async def stream_run(thread_id: UUID, body: RunCreate, request: Request, services: ServicesDep, tenant: TenantDep) -> StreamingResponse:
    """Run an assistant on a thread and follow its events."""
    started = await services.runs.start(tenant, str(thread_id), run_request(body))
    return await _stream(services.runs, started, body, _run_path(request, started))


@router.post("/runs/wait", name="wait_for_stateless_run", response_class=StreamingResponse, responses={**_VALUES, **_REFUSALS})
async def wait_for_stateless_run(body: StatelessRunCreate, request: Request, services: ServicesDep, tenant: TenantDep) -> StreamingResponse:
    """Run an assistant on a thread of its own and wait for its final values."""
    started = await services.runs.start(tenant, None, run_request(body, waits=True))
    return _wait(services.runs, started, body, _run_path(request, started))


@router.post("/runs/stream", name="stream_stateless_run", response_class=StreamingResponse, responses={**_STREAM, **_REFUSALS})
async def stream_stateless_run(body: StatelessRunCreate, request: Request, services: ServicesDep, tenant: TenantDep) -> StreamingResponse:
    """Run an assistant on a thread of its own and follow its events."""
    started = await services.runs.start(tenant, None, run_request(body))
    return await _stream(services.runs, started, body, _run_path(request, started))


@router.get("/threads/{thread_id}/runs/{run_id}", name="get_run", responses=problem_responses(404, 422))
async def get_run(thread_id: UUID, run_id: UUID, services: ServicesDep, tenant: TenantDep) -> Run:
    """A run."""
    return Run.of(await services.runs.get(tenant, str(thread_id), str(run_id)))


@router.get(
    "/threads/{thread_id}/runs/{run_id}/stream",
    name="join_run_stream",
    response_class=StreamingResponse,
    responses={**_STREAM, **problem_responses(404, 422)},
)
async def join_run_stream(
    thread_id: UUID,
    run_id: UUID,
    services: ServicesDep,
    tenant: TenantDep,
    stream_mode: Annotated[list[str] | None, Query(description="Only events of these modes; repeated, or a JSON array.")] = None,
    cancel_on_disconnect: Annotated[bool, Query(description="Cancel the run when the reader leaves.")] = False,
    last_event_id: Annotated[
        str | None, Header(description="Only events after this one; -1: all of them. Without it: only new ones.")
    ] = None,
) -> StreamingResponse:
    """Follow a run, from any of its events on, also after it has ended as long as its events are kept."""
    run = await services.runs.get(tenant, str(thread_id), str(run_id))
    reader = await services.runs.reader(tenant, run, after=_last_seen(last_event_id), modes=_modes(stream_mode))
    content = frames(reader)
    if cancel_on_disconnect:
        content = _cancelling(content, services.runs, run.run_id)
    return event_stream(content, {"Location": f"/threads/{thread_id}/runs/{run_id}/stream"})


def run_request(body: RunCreate, *, waits: bool = False) -> RunRequest:
    """What the service is asked for; a caller who waits streams nothing unless a mode was named."""
    checkpoint_id = body.checkpoint_id or (body.checkpoint.checkpoint_id if body.checkpoint else None)
    return RunRequest(
        assistant_id=body.assistant_id,
        input=body.input,
        command=body.command.model_dump(exclude_unset=True) if body.command else None,
        metadata=dict(body.metadata or {}),
        stream_mode=() if waits and "stream_mode" not in body.model_fields_set else tuple(body.stream_mode),
        stream_subgraphs=body.stream_subgraphs,
        stream_resumable=body.stream_resumable,
        interrupt_before=_nodes(body.interrupt_before),
        interrupt_after=_nodes(body.interrupt_after),
        checkpoint_id=checkpoint_id,
        multitask_strategy=body.multitask_strategy,
        if_not_exists=body.if_not_exists,
        durability=body.durability,
        tags=tuple(body.config.tags),
        recursion_limit=body.config.recursion_limit,
        keep_thread=not isinstance(body, StatelessRunCreate) or body.on_completion == "keep",
    )


def _nodes(names: list[str] | str) -> tuple[str, ...] | str:
    return names if isinstance(names, str) else tuple(names)


def _run_path(request: Request, started: StartedRun) -> str:
    """The run's path as the caller sees it, behind whatever prefix a proxy has."""
    prefix = request.scope.get("root_path", "")
    return f"{prefix}/threads/{started.record.thread_id}/runs/{started.record.run_id}"


def _wait(runs: RunService, started: StartedRun, body: RunCreate, path: str) -> StreamingResponse:
    content = _values(started)
    if body.on_disconnect == "cancel":
        content = _cancelling(content, runs, started.record.run_id)
    headers = {"Content-Location": path, "Location": f"{path}/join", "Cache-Control": "no-store"}
    return StreamingResponse(content, headers=headers, media_type="application/json")


async def _stream(runs: RunService, started: StartedRun, body: RunCreate, path: str) -> StreamingResponse:
    content = frames(await runs.reader(started.tenant, started.record, after=0))
    if body.on_disconnect == "cancel":
        content = _cancelling(content, runs, started.record.run_id)
    return event_stream(content, {"Content-Location": path, "Location": f"{path}/stream"})


async def _values(started: StartedRun) -> AsyncIterator[bytes]:
    """White space as long as there is nothing to say, so that no proxy gives up; then the values."""
    while not started.task.done():
        await asyncio.wait([started.task], timeout=HEARTBEAT)
        if not started.task.done():
            yield b"\n"
    outcome = started.task.result()
    yield orjson.dumps({"__error__": outcome.error}) if outcome.error else to_json(outcome.values)


async def _cancelling(content: AsyncIterator[bytes], runs: RunService, run_id: str) -> AsyncIterator[bytes]:
    """The same bytes; a reader who leaves before the end takes the run along."""
    is_complete = False
    try:
        async for chunk in content:
            yield chunk
        is_complete = True
    finally:
        if not is_complete:
            runs.cancel(run_id)


def _last_seen(header: str | None) -> int | None:
    if header is None:
        return None
    if header == "-1":
        return 0
    if not _EVENT_ID.fullmatch(header):
        raise InvalidInput(f"Last-Event-ID must be the id of an event, or -1: {header[:40]!r}", "invalid_event_id")
    return int(header)


def _modes(given: list[str] | None) -> frozenset[str]:
    """The modes of a query; some clients send a JSON array in one value."""
    modes: list[str] = []
    for value in given or ():
        try:
            modes += _MODES.validate_json(value) if value.startswith("[") else [value]
        except ValidationError:
            raise InvalidInput(f"stream_mode is no JSON array of words: {value}") from None
    return frozenset(modes)
