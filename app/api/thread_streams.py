"""Routes that follow more than a run of which the caller knows everything: a whole thread, or a run by its id alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from app.api.deps import ServicesDep, TenantDep
from app.api.headers import header_refs
from app.api.problems import problem_responses
from app.api.runs import FollowingDep, LastSeenDep, join_run_stream, stream_modes
from app.api.sse import event_stream, frame, unbroken
from app.api.stream_events import MEDIA_TYPE, thread_content
from app.errors import InvalidInput
from app.runs.model import HIDDEN, TERMINAL_EVENTS
from app.storage.redis.runs import Event, ThreadEvent

MODES = frozenset({"run_modes", "lifecycle", "state_update"})
STATE_UPDATE = "state_update"
_LIFECYCLE = frozenset({"metadata", "error"})
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The events.", "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "headers": header_refs("Location")}
}
_THREAD_STREAM: dict[int | str, dict[str, Any]] = {200: {**_STREAM[200], "content": {MEDIA_TYPE: thread_content()}}}
_MODE = "`run_modes` (default): what the runs stream; `lifecycle`: their begin and end; `state_update`: states written by hand."

router = APIRouter(tags=["runs"], responses=problem_responses(401, 503))


@router.get(
    "/threads/{thread_id}/stream",
    name="join_thread_stream",
    response_class=StreamingResponse,
    responses={**_THREAD_STREAM, **problem_responses(404, 422)},
)
async def join_thread_stream(
    thread_id: UUID,
    request: Request,
    services: ServicesDep,
    tenant: TenantDep,
    seen: LastSeenDep,
    stream_mode: Annotated[list[str] | None, Query(description=_MODE)] = None,
    modes: Annotated[list[str] | None, Query(alias="stream_modes", description="The same under its other name.")] = None,
) -> StreamingResponse:
    """Follow a thread: all its runs, one after the other. The stream stays open until the caller leaves or the thread is deleted."""
    wanted = stream_modes([*(stream_mode or ()), *(modes or ())]) or frozenset({"run_modes"})
    if strange := sorted(wanted - MODES):
        raise InvalidInput(f"there is no mode {strange[0]!r} of a thread's stream; there are: {', '.join(sorted(MODES))}")
    # One entry back: the word that a run is done has the number after its end's, and is told with it.
    reader = await services.thread_streams.reader(tenant, str(thread_id), after=max(0, seen - 1) if seen is not None else None)
    path = f"{request.scope.get('root_path', '')}{request.scope['path']}"
    return event_stream(unbroken(reader, _renderer(wanted, seen or 0)), {"Location": _with_modes(path, wanted)})


@router.get(
    "/runs/{run_id}/stream",
    name="join_stateless_run_stream",
    response_class=StreamingResponse,
    responses={**_STREAM, **problem_responses(404, 422)},
)
async def join_stateless_run_stream(
    run_id: UUID,
    request: Request,
    services: ServicesDep,
    tenant: TenantDep,
    following: FollowingDep,
) -> StreamingResponse:
    """Follow a run that was started without a thread."""
    # It executes on a thread of its own, which has its id.
    return await join_run_stream(run_id, run_id, request, services, tenant, following)


def _renderer(modes: frozenset[str], seen: int) -> Callable[[ThreadEvent], bytes]:
    def render(entry: ThreadEvent) -> bytes:
        return b"".join(frame(event) for event in _told(entry) if event.id > seen and _is_wanted(event, modes))

    return render


def _told(entry: ThreadEvent) -> list[Event]:
    """An entry as the thread's stream tells it: there, the end of a run is not that of the stream."""
    event = entry.event
    told = [] if event.name == "end" or event.name.startswith(HIDDEN) else [event]
    if event.name in TERMINAL_EVENTS:
        told.append(Event(event.id + 1, "metadata", orjson.dumps({"status": "run_done", "run_id": entry.run_id})))
    return told


def _is_wanted(event: Event, modes: frozenset[str]) -> bool:
    if event.name == STATE_UPDATE:
        return STATE_UPDATE in modes
    return "run_modes" in modes or ("lifecycle" in modes and event.name in _LIFECYCLE)


def _with_modes(path: str, modes: frozenset[str]) -> str:
    """Where a client that reconnects finds the same stream; it sends no query of its own."""
    return f"{path}?{'&'.join(f'stream_mode={mode}' for mode in sorted(modes))}"
