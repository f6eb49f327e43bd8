"""Routes of runs: start one and wait for it, follow it or leave it alone; read, join, cancel and delete one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter, ValidationError

from app.api.deps import ServicesDep, TenantDep
from app.api.headers import header_refs
from app.api.new_run import NewRun, NewRunDep
from app.api.problems import problem_responses
from app.api.schemas import Run, RunCreate, RunField, RunFields, RunsCancel, StatelessRunCreate
from app.api.sse import HEARTBEAT, event_stream, frames
from app.errors import InvalidInput
from app.runs.acceptance import StartedRun
from app.runs.service import Drained, RunService
from app.storage.errors import StorageUnavailable
from app.storage.redis.runs import RunRecord, RunStatus
from app.threads.plain import to_json

router = APIRouter(tags=["runs"], responses=problem_responses(401, 503))
_REFUSALS = problem_responses(400, 404, 409, 413, 422, 429)
_CREATED: dict[int | str, dict[str, Any]] = {200: {"headers": header_refs("Content-Location")}}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The run's events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "headers": header_refs("Content-Location", "Location"),
    }
}
_JOINED_STREAM: dict[int | str, dict[str, Any]] = {200: {**_STREAM[200], "headers": header_refs("Location")}}
_VALUES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The final values; `__interrupt__` if the run asks something, `__error__` if it failed.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/RunValues"}}},
        "headers": header_refs("Content-Location", "Location"),
    }
}
Action = Annotated[Literal["interrupt", "rollback"], Query(description="Keep what the run has written, or remove run and state.")]
_MODES = TypeAdapter(list[str])
_EVENT_ID = re.compile(r"[0-9]{1,18}")


def stream_modes(given: list[str] | None) -> frozenset[str]:
    """The modes of a query; some clients send a JSON array in one value, one sends an empty value for none.

    Raises:
        InvalidInput: It is neither a word nor such an array.
    """
    modes: list[str] = []
    for value in filter(None, given or ()):
        try:
            modes += _MODES.validate_json(value) if value.startswith("[") else [value]
        except ValidationError:
            raise InvalidInput(f"stream_mode is no JSON array of words: {value}") from None
    return frozenset(modes)


async def last_seen(
    last_event_id: Annotated[
        str | None, Header(description="Only events after this one; -1: all that are kept. Without it: only new ones.")
    ] = None,
    since: Annotated[
        str | None,
        Query(alias="last_event_id", description="The same for who cannot send a header, as a browser's `EventSource`; the header wins."),
    ] = None,
) -> int | None:
    """The number of the last event that a reader has, 0: none; None: it did not say.

    Raises:
        InvalidInput: It is no id of ours.
    """
    given = since if last_event_id is None else last_event_id
    if given is None:
        return None
    if given == "-1":
        return 0
    if not _EVENT_ID.fullmatch(given):
        raise InvalidInput(f"Last-Event-ID must be the id of an event, or -1: {given[:40]!r}", "invalid_event_id")
    return int(given)


LastSeenDep = Annotated[int | None, Depends(last_seen)]


@dataclass(frozen=True, slots=True)
class Following:
    """What a reader wants of a run.

    Attributes:
        after: Only events after this one; None: only new ones.
        modes: Only events of these; none: all.
        ends_with_reader: Whether the run is cancelled when the reader leaves.
    """

    after: int | None
    modes: frozenset[str]
    ends_with_reader: bool


async def following(
    after: LastSeenDep,
    stream_mode: Annotated[list[str] | None, Query(description="Only events of these modes; repeated, or a JSON array.")] = None,
    cancel_on_disconnect: Annotated[bool, Query(description="Cancel the run when the reader leaves.")] = False,
) -> Following:
    """As the query and the headers say.

    Raises:
        InvalidInput: They make no sense.
    """
    return Following(after, stream_modes(stream_mode), cancel_on_disconnect)


FollowingDep = Annotated[Following, Depends(following)]


@router.post("/threads/{thread_id}/runs", name="create_run", responses={**_CREATED, **_REFUSALS})
async def create_run(thread_id: UUID, body: RunCreate, response: Response, new: NewRunDep) -> Run:
    """Run an assistant on a thread in the background."""
    return _created(await new.start(thread_id, body, is_background=True), response, new)


@router.post("/threads/{thread_id}/runs/wait", name="wait_for_run", response_class=StreamingResponse, responses={**_VALUES, **_REFUSALS})
async def wait_for_run(thread_id: UUID, body: RunCreate, new: NewRunDep) -> StreamingResponse:
    """Run an assistant on a thread and wait for its final values."""
    return _wait(new.services.runs, await new.start(thread_id, body, streams=False), body.on_disconnect, new.request)


@router.post("/threads/{thread_id}/runs/stream", name="stream_run", response_class=StreamingResponse, responses={**_STREAM, **_REFUSALS})
async def stream_run(thread_id: UUID, body: RunCreate, new: NewRunDep) -> StreamingResponse:
    """Run an assistant on a thread and follow its events."""
    return await _stream(new.services.runs, await new.start(thread_id, body), body.on_disconnect, new.request)


@router.post("/runs", name="create_stateless_run", responses={**_CREATED, **_REFUSALS})
async def create_stateless_run(body: StatelessRunCreate, response: Response, new: NewRunDep) -> Run:
    """Run an assistant on a thread of its own in the background."""
    return _created(await new.start(None, body, is_background=True), response, new)


@router.post("/runs/wait", name="wait_for_stateless_run", response_class=StreamingResponse, responses={**_VALUES, **_REFUSALS})
async def wait_for_stateless_run(body: StatelessRunCreate, new: NewRunDep) -> StreamingResponse:
    """Run an assistant on a thread of its own and wait for its final values."""
    return _wait(new.services.runs, await new.start(None, body, streams=False), body.on_disconnect, new.request)


@router.post("/runs/stream", name="stream_stateless_run", response_class=StreamingResponse, responses={**_STREAM, **_REFUSALS})
async def stream_stateless_run(body: StatelessRunCreate, new: NewRunDep) -> StreamingResponse:
    """Run an assistant on a thread of its own and follow its events."""
    return await _stream(new.services.runs, await new.start(None, body), body.on_disconnect, new.request)


@router.post("/runs/cancel", name="cancel_runs", status_code=204, responses=problem_responses(404, 413, 422))
async def cancel_runs(body: RunsCancel, services: ServicesDep, tenant: TenantDep, action: Action = "interrupt") -> None:
    """Cancel many runs: those that are named, or all of a status."""
    if body.status is not None:
        wanted = await services.runs.open_runs(tenant, body.status)
    else:
        wanted = [(str(body.thread_id), str(run_id)) for run_id in body.run_ids or ()]
    await services.runs.cancel_many(tenant, wanted, action)


@router.get("/threads/{thread_id}/runs", name="list_runs", response_model_exclude_unset=True, responses=problem_responses(404, 422))
async def list_runs(
    thread_id: UUID,
    services: ServicesDep,
    tenant: TenantDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0)] = 0,
    status: Annotated[RunStatus | None, Query(description="Only runs of this status.")] = None,
    select: Annotated[list[RunField] | None, Query(description="Only these fields; repeated.")] = None,
) -> list[RunFields]:
    """The runs of a thread, newest first."""
    found = await services.runs.of_thread(tenant, str(thread_id), limit=limit, offset=offset, status=status)
    return [RunFields.of(record, select) for record in found]


@router.get("/threads/{thread_id}/runs/{run_id}", name="get_run", responses=problem_responses(404, 422))
async def get_run(thread_id: UUID, run_id: UUID, services: ServicesDep, tenant: TenantDep) -> Run:
    """A run."""
    return Run.of(await services.runs.get(tenant, str(thread_id), str(run_id)))


@router.delete("/threads/{thread_id}/runs/{run_id}", name="delete_run", status_code=204, responses=problem_responses(404, 409, 422))
async def delete_run(thread_id: UUID, run_id: UUID, services: ServicesDep, tenant: TenantDep) -> None:
    """Forget a run that has ended."""
    await services.runs.delete(tenant, str(thread_id), str(run_id))


@router.get(
    "/threads/{thread_id}/runs/{run_id}/join",
    name="join_run",
    response_class=StreamingResponse,
    responses={**_VALUES, **problem_responses(404, 422)},
)
async def join_run(thread_id: UUID, run_id: UUID, request: Request, services: ServicesDep, tenant: TenantDep) -> StreamingResponse:
    """Wait for the final values of a run."""
    run = await services.runs.get(tenant, str(thread_id), str(run_id))
    return _wait(services.runs, StartedRun(tenant, run), "continue", request)


@router.get(
    "/threads/{thread_id}/runs/{run_id}/stream",
    name="join_run_stream",
    response_class=StreamingResponse,
    responses={**_JOINED_STREAM, **problem_responses(404, 422)},
)
async def join_run_stream(
    thread_id: UUID,
    run_id: UUID,
    request: Request,
    services: ServicesDep,
    tenant: TenantDep,
    following: FollowingDep,
) -> StreamingResponse:
    """Follow a run, from any of its events on, also after it has ended as long as its events are kept."""
    run = await services.runs.get(tenant, str(thread_id), str(run_id))
    content = frames(await services.runs.reader(tenant, run, after=following.after, modes=following.modes))
    if following.ends_with_reader:
        content = _leaving(content, services.runs, StartedRun(tenant, run))
    return event_stream(content, {"Location": f"{run_path(request, run)}/stream"})


@router.post(
    "/threads/{thread_id}/runs/{run_id}/cancel",
    name="cancel_run",
    status_code=202,
    response_class=Response,
    responses={
        200: {
            "description": "It has let go (`wait`).",
            "content": {"application/json": {"schema": {"type": "object"}}},
            "headers": header_refs("Location"),
        },
        202: {"description": "It is told to end."},
        **problem_responses(404, 422),
    },
)
async def cancel_run(
    thread_id: UUID,
    run_id: UUID,
    request: Request,
    services: ServicesDep,
    tenant: TenantDep,
    wait: Annotated[bool, Query(description="Answer once nothing of the run is under way any more.")] = False,
    action: Action = "interrupt",
) -> Response:
    """End a run; nothing of it is written afterwards."""
    await services.runs.cancel(tenant, str(thread_id), str(run_id), action, wait=wait)
    if not wait:
        return Response(status_code=202)
    location = f"{request.scope.get('root_path', '')}/threads/{thread_id}/runs/{run_id}/join"
    return Response(b"{}", 200, {"Location": location}, "application/json")


def run_path(request: Request, run: RunRecord) -> str:
    """The run's path as the caller sees it, behind whatever prefix a proxy has."""
    return f"{request.scope.get('root_path', '')}/threads/{run.thread_id}/runs/{run.run_id}"


def _created(started: StartedRun, response: Response, new: NewRun) -> Run:
    response.headers["Content-Location"] = run_path(new.request, started.record)
    return Run.of(started.record)


def _wait(runs: RunService, started: StartedRun, on_disconnect: str, request: Request) -> StreamingResponse:
    content = _values(runs, started)
    if on_disconnect == "cancel":
        content = _leaving(content, runs, started)
    path = run_path(request, started.record)
    headers = {"Content-Location": path, "Location": f"{path}/join", "Cache-Control": "no-store"}
    return StreamingResponse(content, headers=headers, media_type="application/json")


async def _stream(runs: RunService, started: StartedRun, on_disconnect: str, request: Request) -> StreamingResponse:
    content = frames(await runs.reader(started.tenant, started.record, after=0))
    if on_disconnect == "cancel":
        content = _leaving(content, runs, started)
    path = run_path(request, started.record)
    return event_stream(content, {"Content-Location": path, "Location": f"{path}/stream"})


async def _values(runs: RunService, started: StartedRun) -> AsyncIterator[bytes]:
    """White space as long as there is nothing to say, so that no proxy gives up; then the values."""
    waiting = asyncio.create_task(runs.outcome(started.tenant, started.record))
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=HEARTBEAT)
            if not waiting.done():
                yield b"\n"
        try:
            outcome = waiting.result()
        except StorageUnavailable as exc:
            text = "the storage cannot be reached; what has become of the run can be asked later, by joining it"
            yield orjson.dumps({"__error__": {"error": type(exc).__name__, "message": text, "code": exc.code}})
            return
        yield orjson.dumps({"__error__": outcome.error}) if outcome.error else to_json(outcome.values)
    finally:
        waiting.cancel()


async def _leaving(content: AsyncIterator[bytes], runs: RunService, started: StartedRun) -> AsyncIterator[bytes]:
    """The same bytes; a reader who leaves before the end takes the run along."""
    is_complete = False
    try:
        async for chunk in content:
            yield chunk
        is_complete = True
    except Drained:
        is_complete = True
        raise
    finally:
        if not is_complete:
            runs.leave(started.tenant, started.record)
