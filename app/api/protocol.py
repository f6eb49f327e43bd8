"""Protocol v2: commands to a thread, and its events in one stream over all runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.json_schema import SkipJsonSchema

from app.api.deps import ServicesDep, TenantDep
from app.api.new_run import NewRun, NewRunDep
from app.api.problems import problem, problem_responses
from app.api.protocol_stream import content
from app.api.schemas import GoTo, Metadata, RunCreate
from app.api.sse import event_stream, unbroken
from app.api.stream_events import MEDIA_TYPE
from app.errors import (
    AppError,
    ConflictingRequest,
    InvalidInput,
    NotChangeable,
    NotFound,
    NotReady,
    Overloaded,
    ThreadBusy,
    TooManyRequests,
)
from app.runs.acceptance import StartedRun
from app.runs.protocol_events import CHANNELS, MODES, ProtocolEvent, Subscription, last_seq
from app.storage.redis.threads import ThreadRecord

ErrorCode = Literal[
    "invalid_argument",
    "unknown_command",
    "unknown_error",
    "no_such_run",
    "no_such_interrupt",
    "no_such_checkpoint",
    "not_supported",
]
_CODES: Mapping[str, ErrorCode] = {
    "thread_not_found": "no_such_run",
    "run_not_found": "no_such_run",
    "checkpoint_not_found": "no_such_checkpoint",
    "no_interrupt": "no_such_interrupt",
    "no_such_interrupt": "no_such_interrupt",
    "interrupt_answered": "no_such_interrupt",
}
_AS_STATUS = (TooManyRequests, Overloaded, NotReady)
"""Refusals that have nothing to do with the command: they stay what they are everywhere, an HTTP status with `Retry-After`."""
_INTERRUPT_ID = re.compile(r"[0-9a-f]{32}")
ASKED_WITHIN, ASKED_LOOK = 1.0, 0.02
"""How long an answer waits for the question of a run that is still writing its end, and between two looks, seconds: readers hear of a
question a moment before the thread is at rest."""


class _Route(APIRoute):
    """A route whose malformed body is a 400, as the protocol has it, and in the form of an answer where answers have one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as exc:
                if any(fault["loc"][0] != "body" for fault in exc.errors()):
                    raise
                text = _faults(exc.errors())
                if self.name == "send_thread_command":
                    return _refused(None, "invalid_argument", text, 400)
                return problem(request, 400, "invalid_argument", text)

        return answer


router = APIRouter(tags=["protocol"], responses=problem_responses(401, 503), route_class=_Route)


class ThreadCommand(BaseModel):
    """A command to a thread."""

    id: int = Field(ge=0, description="The caller's number for it; the answer has it too.")
    method: str = Field(
        description="What is to be done: `run.start`, `input.respond`, `agent.getTree`, `state.get`, …", examples=["run.start"]
    )
    params: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="What the method needs; what it cannot do with them is an answer with a code.",
        examples=[{"assistant_id": "supervisor", "input": {"messages": [{"role": "user", "content": "How do I change my PIN?"}]}}],
    )


class CommandMeta(BaseModel):
    """What else there is to know of an answer."""

    applied_through_seq: int = Field(description="Events up to this number were there before the command.")


class CommandDone(BaseModel):
    """The command was carried out."""

    type: Literal["success"]
    id: int
    result: dict[str, Any]
    meta: CommandMeta | SkipJsonSchema[None] = Field(None, description="Of a command that starts a run.")


class CommandRefused(BaseModel):
    """The command was not carried out."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    type: Literal["error"] = "error"
    id: int | None
    error: ErrorCode
    message: str


def _known(channel: str) -> str:
    if channel not in CHANNELS and not channel.removeprefix("custom:").strip():
        raise ValueError("a name is missing after custom:")
    if channel not in CHANNELS and not channel.startswith("custom:"):
        raise ValueError(f"there is no channel {channel!r}; there are: {', '.join(sorted(CHANNELS))}, custom:<name>")
    return channel


class EventsWanted(BaseModel):
    """Which events of a thread are wanted."""

    channels: list[Annotated[str, AfterValidator(_known)]] = Field(
        min_length=1,
        max_length=100,
        description="Of these channels: " + ", ".join(f"`{channel}`" for channel in sorted(CHANNELS)) + ", `custom:<name>`.",
        examples=[["lifecycle", "messages"]],
    )
    namespaces: list[list[str]] | None = Field(None, max_length=100, description="Only these graphs: beginnings of namespaces.")
    depth: int | None = Field(None, ge=0, description="Most levels below such a beginning; 0: exactly there.")
    since: int = Field(0, ge=0, description="Only events with a greater `seq`.")


class _RunStart(BaseModel):
    assistant_id: str = Field(min_length=1)
    input: JsonValue = None
    config: dict[str, JsonValue] = Field(default_factory=dict)
    metadata: Metadata | None = None
    multitask_strategy: str | None = None
    multitaskStrategy: str | None = None  # the same as one client writes it


class _Answer(BaseModel):
    interrupt_id: str
    namespace: list[str] = Field(default_factory=list)
    response: JsonValue = None


class _InputRespond(BaseModel):
    interrupt_id: str | None = None
    namespace: list[str] = Field(default_factory=list)
    response: JsonValue = None
    responses: list[_Answer] = Field(default_factory=list)
    update: dict[str, JsonValue] | None = None
    goto: str | GoTo | list[str | GoTo] | None = None
    config: dict[str, JsonValue] = Field(default_factory=dict)
    metadata: Metadata | None = None


class _StateFork(BaseModel):
    checkpoint_id: str = Field(min_length=1)
    input: dict[str, JsonValue] | None = None
    config: dict[str, JsonValue] = Field(default_factory=dict)


class _StateGet(BaseModel):
    namespace: list[str] = Field(default_factory=list)
    keys: list[str] | None = None


class _ListCheckpoints(BaseModel):
    namespace: list[str] = Field(default_factory=list)
    limit: int = Field(10, ge=1, le=1000)
    before: str | None = None


class _GetTree(BaseModel):
    run_id: str | None = None


@router.post(
    "/threads/{thread_id}/commands",
    name="send_thread_command",
    response_model=CommandDone | CommandRefused,
    responses={400: {"description": "It has no id or no method.", "model": CommandRefused}, **problem_responses(413, 422, 429)},
)
async def send_thread_command(thread_id: UUID, command: ThreadCommand, new: NewRunDep) -> JSONResponse:
    """Start a run, answer what one asks, or look at the thread (protocol v2); what cannot be done is an answer too."""
    handler = _HANDLERS.get(command.method)
    if handler is None:
        return _refused(command.id, "unknown_command", f"there is no command {command.method!r}; there are: {', '.join(_HANDLERS)}")
    try:
        result, meta = await handler(_Commands(str(thread_id), new), command.params)
    except ValidationError as exc:
        return _refused(command.id, "invalid_argument", _faults(exc.errors()))
    except _NotSupported as exc:
        return _refused(command.id, "not_supported", str(exc))
    except AppError as exc:
        if isinstance(exc, _AS_STATUS):
            raise
        is_bad = isinstance(exc, InvalidInput | ConflictingRequest | ThreadBusy | NotFound)
        return _refused(command.id, _CODES.get(exc.code, "invalid_argument" if is_bad else "unknown_error"), exc.detail)
    done = CommandDone(type="success", id=command.id, result=result, meta=meta)
    return JSONResponse(done.model_dump(mode="json", exclude_none=True))


@router.post(
    "/threads/{thread_id}/stream/events",
    name="stream_thread_events",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The thread's events.", "content": {MEDIA_TYPE: content()}},
        **problem_responses(400, 413, 422),
    },
)
async def stream_thread_events(thread_id: UUID, asked: EventsWanted, services: ServicesDep, tenant: TenantDep) -> StreamingResponse:
    """Follow a thread (protocol v2): first everything that is kept of it, then what comes; over all runs, until the caller leaves."""
    namespaces = [tuple(namespace) for namespace in asked.namespaces] if asked.namespaces is not None else None
    wanted = Subscription(frozenset(asked.channels), namespaces, asked.depth)
    reader = services.thread_streams.protocol_reader(tenant, str(thread_id), since=asked.since, wanted=wanted)
    return event_stream(unbroken(reader, ProtocolEvent.frame), {})


class _NotSupported(Exception):
    """The command belongs to another transport."""


_Result = tuple[dict[str, Any], CommandMeta | None]


class _Commands:
    """The commands to one thread."""

    def __init__(self, thread_id: str, new: NewRun) -> None:
        self._thread_id = thread_id
        self._new = new

    async def start(self, params: Any) -> _Result:
        """`run.start`: begins a run, or answers what the thread asks if the input is none that the graph takes."""
        asked = _RunStart.model_validate(params)
        runs, given = self._new.services.runs, asked.input
        wishes: dict[str, Any] = {"if_not_exists": "create"}
        if given is not None and not await runs.accepts(self._new.tenant, asked.assistant_id, given) and await self._asks():
            wishes["command"] = {"resume": given}
        else:
            wishes["input"] = given
        strategy = asked.multitask_strategy or asked.multitaskStrategy
        if strategy is not None:
            wishes["multitask_strategy"] = strategy
        return _started(await self._run(asked.assistant_id, asked.config, asked.metadata, **wishes))

    async def respond(self, params: Any) -> _Result:
        """`input.respond`: answers one interrupt or several at once."""
        asked = _InputRespond.model_validate(params)
        answers = {answer.interrupt_id: answer.response for answer in asked.responses}
        if asked.interrupt_id is not None:
            answers[asked.interrupt_id] = asked.response
        if not answers:
            raise InvalidInput("input.respond needs an interrupt_id, or responses")
        for interrupt_id in answers:
            if not _INTERRUPT_ID.fullmatch(interrupt_id):
                raise NotChangeable(f"not asked: interrupt {interrupt_id}", "no_such_interrupt")
        thread = await self._thread()
        command: dict[str, Any] = {"resume": answers}
        if asked.update is not None:
            command["update"] = asked.update
        if asked.goto is not None:
            command["goto"] = asked.goto
        return _started(await self._run(_assistant_of(thread), asked.config, asked.metadata, command=command))

    async def tree(self, params: Any) -> _Result:
        """`agent.getTree`: the graph and subgraphs of a run, the latest unless one is named."""
        asked = _GetTree.model_validate(params)
        streams = self._new.services.thread_streams
        return {"tree": await streams.tree(self._new.tenant, self._thread_id, asked.run_id)}, None

    async def state(self, params: Any) -> _Result:
        """`state.get`: the latest state, or some keys of it."""
        asked = _StateGet.model_validate(params)
        state = await self._new.services.threads.state(self._new.tenant, self._thread_id, None, "|".join(asked.namespace))
        values = {key: value for key, value in state["values"].items() if asked.keys is None or key in asked.keys}
        at = state["checkpoint"]
        return {"values": values, **({"checkpoint": {"id": at["checkpoint_id"], "ns": at["checkpoint_ns"]}} if at else {})}, None

    async def checkpoints(self, params: Any) -> _Result:
        """`state.listCheckpoints`: the states that there are, the newest first."""
        asked = _ListCheckpoints.model_validate(params)
        states = await self._new.services.threads.history(
            self._new.tenant,
            self._thread_id,
            limit=asked.limit,
            before=asked.before,
            metadata=None,
            checkpoint_ns="|".join(asked.namespace),
        )
        return {"checkpoints": [_summary(state) for state in states]}, None

    async def fork(self, params: Any) -> _Result:
        """`state.fork`: begins a run from an earlier state."""
        asked = _StateFork.model_validate(params)
        thread = await self._thread()
        started = await self._run(_assistant_of(thread), asked.config, None, input=asked.input, checkpoint_id=asked.checkpoint_id)
        result, meta = _started(started)
        return {**result, "thread_id": self._thread_id}, meta

    async def subscribe(self, params: Any) -> _Result:
        """`subscription.…`: those belong to a WebSocket."""
        raise _NotSupported("subscribe with POST /threads/{thread_id}/stream/events; there is no WebSocket")

    async def _run(self, assistant_id: str, config: Mapping[str, Any], metadata: Any, **wishes: Any) -> StartedRun:
        fork = config.get("configurable")
        if isinstance(fork, dict) and fork.get("checkpoint_id"):
            wishes.setdefault("checkpoint_id", fork["checkpoint_id"])
        fixed = {"stream_mode": list(MODES), "stream_subgraphs": True, "stream_resumable": True}
        body = RunCreate.model_validate({"assistant_id": assistant_id, "config": config, "metadata": metadata, **fixed, **wishes})
        return await self._new.start(UUID(self._thread_id), body)

    async def _thread(self) -> ThreadRecord:
        return await self._new.services.threads.get(self._new.tenant, self._thread_id)

    async def _asks(self) -> bool:
        """Whether the thread asks something; a run that has just asked may still be writing its end."""
        threads, tenant = self._new.services.threads, self._new.tenant
        given_up = asyncio.get_running_loop().time() + ASKED_WITHIN
        with suppress(NotFound):
            while not (asked := (await threads.interrupts(tenant, self._thread_id))[2]):
                if (await self._thread()).status != "busy" or asyncio.get_running_loop().time() >= given_up:
                    break
                await asyncio.sleep(ASKED_LOOK)
            return bool(asked)
        return False


_HANDLERS: Mapping[str, Callable[[_Commands, Any], Awaitable[_Result]]] = {
    "run.start": _Commands.start,
    "input.respond": _Commands.respond,
    "agent.getTree": _Commands.tree,
    "state.get": _Commands.state,
    "state.listCheckpoints": _Commands.checkpoints,
    "state.fork": _Commands.fork,
    "subscription.subscribe": _Commands.subscribe,
    "subscription.unsubscribe": _Commands.subscribe,
    "subscription.reconnect": _Commands.subscribe,
}


def _started(started: StartedRun) -> _Result:
    return {"run_id": started.record.run_id}, CommandMeta(applied_through_seq=last_seq(started.sequence))


def _assistant_of(thread: ThreadRecord) -> str:
    assistant_id = thread.metadata.get("assistant_id")
    if not assistant_id:
        raise NotFound(f"thread {thread.thread_id} has had no run", "run_not_found")
    return str(assistant_id)


def _summary(state: Mapping[str, Any]) -> dict[str, Any]:
    metadata = state["metadata"]
    return {"id": state["checkpoint_id"], "timestamp": state["created_at"], "step": metadata.get("step"), "metadata": metadata}


def _refused(command_id: int | None, error: ErrorCode, message: str, status: int = 200) -> JSONResponse:
    return JSONResponse(CommandRefused(id=command_id, error=error, message=message).model_dump(), status)


def _faults(faults: Sequence[Any]) -> str:
    def told(fault: Any) -> str:
        where = ".".join(str(part) for part in fault["loc"] if part != "body")
        return f"{where}: {fault['msg'].removeprefix('Value error, ')}"

    return "; ".join(map(told, faults))
