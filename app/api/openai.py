"""OpenAI's chat protocol for every client that speaks it: a model is an assistant, a completion is a stateless run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from app.api.deps import Services, ServicesDep, TenantDep
from app.api.headers import header_refs
from app.api.new_run import NewRun, NewRunDep
from app.api.problems import openai_responses
from app.api.runs import run_path
from app.api.schemas import RunCreate, StatelessRunCreate
from app.api.sse import HEARTBEAT, HEARTBEAT_FRAME, event_stream
from app.errors import AppError, NotFound, NotReady
from app.runs.acceptance import StartedRun
from app.runs.events import LogReader
from app.runs.executor import Outcome
from app.runs.service import Drained
from app.storage.errors import StorageUnavailable
from app.threads.plain import to_plain

LOOK_EVERY = 0.5
"""How often a completion that is not streamed looks whether its caller is still there, seconds."""
CALLER_LEFT = 499
"""Status of an answer that nobody reads, as nginx logs it."""

NamedThread = Annotated[
    str | None,
    Header(max_length=64, description="The conversation: the UUID of a thread, which is made if there is none. The answer has it too."),
]

router = APIRouter(prefix="/v1", tags=["openai"], responses=openai_responses(401, 503))


class ChatMessage(BaseModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(description="Who speaks; what tools said is left out.")
    content: str | list[dict[str, JsonValue]] | None = Field(
        None, description="The text, or parts of it.", examples=["How do I change my PIN?"]
    )


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    include_usage: bool = Field(False, description="One more chunk at the end, with `usage`.")


class ChatCompletionRequest(BaseModel):
    """A completion to be made; sampling fields are ignored, since the assistant chooses its own models."""

    model: str = Field(min_length=1, description="The assistant's name.", examples=["supervisor"])
    messages: list[ChatMessage] = Field(min_length=1, description="The conversation so far, the latest last.")
    stream: bool = Field(False, description="Answer in pieces, as a `text/event-stream`.")
    stream_options: StreamOptions | None = None
    n: int = Field(1, description="How many answers; only 1 is served.")
    metadata: dict[str, str] | None = Field(None, description="`thread_id` names the conversation, as the header `X-Thread-Id` does.")


class Model(BaseModel):
    """An assistant under OpenAI's name for it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "capataz"


class ModelList(BaseModel):
    """All assistants."""

    object: Literal["list"] = "list"
    data: list[Model]


class Usage(BaseModel):
    """What the answer took, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionMessage(BaseModel):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str = Field(examples=["A fee of 1 % applies to transfers abroad."])


class CompletionChoice(BaseModel):
    """The one answer."""

    index: Literal[0]
    message: CompletionMessage
    finish_reason: Literal["stop"]


class CompletionMetadata(BaseModel):
    """The conversation that the request named."""

    thread_id: UUID


class ChatCompletion(BaseModel):
    """A completion as a whole."""

    id: str = Field(examples=["chatcmpl-1f0c9a44-6c0e-4b0a-9d52-0a3d2b6f3a11"])
    object: Literal["chat.completion"]
    created: int
    model: str = Field(examples=["supervisor"])
    choices: list[CompletionChoice]
    usage: Usage
    metadata: CompletionMetadata | SkipJsonSchema[None] = None


class CompletionDelta(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] = "assistant"
    content: str = ""


class CompletionChunkChoice(BaseModel):
    """What a chunk adds to the one answer."""

    index: Literal[0]
    delta: CompletionDelta
    finish_reason: Literal["stop"] | None


class ChatCompletionChunk(BaseModel):
    """A piece of a completion. After the last one comes `data: [DONE]`; a failure is an `error` in place of a chunk."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[CompletionChunkChoice] = Field(description="One, or none in the chunk that carries `usage`.")
    usage: Usage | SkipJsonSchema[None] = None
    metadata: CompletionMetadata | SkipJsonSchema[None] = None


class ParameterNotSupported(AppError):
    """A field has a value that we cannot serve."""

    code = "unsupported_parameter"
    status = 400

    def __init__(self, detail: str, param: str) -> None:
        super().__init__(detail)
        self.param = param


class RunFailed(AppError):
    """The run behind a completion failed."""

    code = "server_error"
    status = 500


@router.get("/models", name="list_models")
async def list_models(services: ServicesDep, tenant: TenantDep) -> ModelList:
    """The assistants."""
    return ModelList(data=[_model(services, graph_id) for graph_id in services.assistants.graph_ids])


@router.get("/models/{model_id}", name="get_model", responses=openai_responses(404))
async def get_model(model_id: str, services: ServicesDep, tenant: TenantDep) -> Model:
    """One assistant."""
    _check_model(services, model_id)
    return _model(services, model_id)


_COMPLETION: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatCompletion,
        "description": "The answer; with `stream` in pieces.",
        "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/ChatCompletionChunk"}}},
        "headers": header_refs("Content-Location", "X-Thread-Id"),
    }
}


@router.post(
    "/chat/completions",
    name="create_chat_completion",
    response_class=JSONResponse,
    responses={**_COMPLETION, **openai_responses(400, 404, 409, 413, 429, 500)},
)
async def create_chat_completion(body: ChatCompletionRequest, new: NewRunDep, x_thread_id: NamedThread = None) -> Response:
    """Answer a conversation, as a whole or as a stream.

    With a thread, the conversation stays: its history comes from there, and only what is new is taken from `messages`.
    """
    services, tenant = new.services, new.tenant
    _check_model(services, body.model)
    if body.n != 1:
        raise ParameterNotSupported("n must be 1: an assistant gives one answer", "n")
    # Calls and results of the client's own tools are not ours to read.
    spoken = [message for message in body.messages if message.content and message.role != "tool"]
    messages: list[JsonValue] = [message.model_dump(include={"role", "content"}) for message in spoken]
    thread_id = _named_thread(x_thread_id, body.metadata)
    if thread_id is None:
        run: RunCreate = StatelessRunCreate(assistant_id=body.model, input={"messages": messages}, stream_resumable=_may_come_back(new))
    else:
        messages = _unknown(messages, await _known(services, tenant, thread_id))
        run = RunCreate(assistant_id=body.model, input={"messages": messages}, stream_resumable=True, if_not_exists="create")
    if body.stream:
        run.stream_mode = ["messages-tuple"]
    asked = f"{thread_id}\n{body.model_dump_json()}" if thread_id is not None else None
    started = await new.start(thread_id, run, streams=body.stream, asked=asked)
    where = {"Content-Location": run_path(new.request, started.record), **({"X-Thread-Id": str(thread_id)} if thread_id else {})}
    if body.stream:
        reader = await services.runs.reader(tenant, started.record, after=0)
        return event_stream(_chunks(new, started, reader, body), where)
    try:
        outcome = await _outcome(new, started)
    except Drained:
        _leave(new, started)
        raise NotReady("the service is going down; try again in a moment", "draining") from None
    if outcome is None:
        _leave(new, started)
        return Response(status_code=CALLER_LEFT)
    if outcome.error is not None:
        raise RunFailed(outcome.error["message"], outcome.error["code"])
    usage = _usage(outcome.values)
    message = {"role": "assistant", "content": _answer(outcome.values)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JSONResponse({**_head(started, body, "chat.completion"), "choices": [choice], "usage": usage}, headers=where)


def _may_come_back(new: NewRun) -> bool:
    return new.idempotency_key is not None


def _leave(new: NewRun, started: StartedRun) -> None:
    """The caller has gone. So does the run, since nobody could fetch its answer; unless the same request can come again."""
    if not _may_come_back(new):
        new.services.runs.leave(started.tenant, started.record)


async def _outcome(new: NewRun, started: StartedRun) -> Outcome | None:
    """How the run ends; None: its caller has left."""
    waiting = asyncio.create_task(new.services.runs.outcome(started.tenant, started.record))
    try:
        while not (await asyncio.wait([waiting], timeout=LOOK_EVERY))[0]:
            if await new.request.is_disconnected():
                return None
        return waiting.result()
    finally:
        waiting.cancel()


async def _chunks(new: NewRun, started: StartedRun, reader: LogReader, body: ChatCompletionRequest) -> AsyncIterator[bytes]:
    """The answer's tokens; a draft that a human's call replaced stays, with the last word after it."""
    head = _head(started, body, "chat.completion.chunk")
    yield _chunk({**head, "choices": [_delta({"role": "assistant", "content": ""})]})
    spoken: dict[str, str] = {}
    has_left = True
    try:
        while not reader.has_ended:
            events = await reader.read(HEARTBEAT)
            if reader.is_cut:
                has_left = False
                return
            if not events:
                yield HEARTBEAT_FRAME
            for event in events:
                if event.name == "messages" and (text := _new_text(event.data, spoken)):
                    yield _chunk({**head, "choices": [_delta({"content": text})]})
        has_left = False
        outcome = await new.services.runs.outcome(started.tenant, started.record)
        if outcome.error is not None:
            yield _chunk(
                {"error": {"message": outcome.error["message"], "type": "server_error", "param": None, "code": outcome.error["code"]}}
            )
            return
        if "__interrupt__" in outcome.values:
            yield _chunk({**head, "choices": [_delta({"content": ("\n\n" if spoken else "") + _answer(outcome.values)})]})
        yield _chunk({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if body.stream_options and body.stream_options.include_usage:
            yield _chunk({**head, "choices": [], "usage": _usage(outcome.values)})
        yield b"data: [DONE]\n\n"
    except StorageUnavailable as exc:
        yield _chunk({"error": {"message": "the storage cannot be reached", "type": "server_error", "param": None, "code": exc.code}})
    finally:
        if has_left:
            _leave(new, started)


def _answer(values: dict[str, Any]) -> str:
    """The answer; of a run that asks a human, what the customer may be told meanwhile."""
    asked = to_plain(values.get("__interrupt__", ()))
    if not asked:
        return values.get("answer") or ""
    value = asked[0]["value"]
    return str(value.get("notice", "")) if isinstance(value, dict) else ""


def _new_text(data: bytes, spoken: dict[str, str]) -> str:
    """What this event adds to the text; a message after the first begins a new paragraph."""
    message, _ = orjson.loads(data)
    if message["type"] not in ("AIMessageChunk", "ai") or not isinstance(message["content"], str) or not message["content"]:
        return ""
    key, text = str(message["id"]), str(message["content"])
    if message["type"] == "ai" and key in spoken:
        return ""
    gap = "\n\n" if spoken and key not in spoken else ""
    spoken[key] = text
    return gap + text


def _head(started: StartedRun, body: ChatCompletionRequest, kind: str) -> dict[str, Any]:
    record = started.record
    head = {"id": f"chatcmpl-{record.run_id}", "object": kind, "created": int(record.created_at.timestamp()), "model": body.model}
    return {**head, "metadata": {"thread_id": record.thread_id}} if record.kwargs.get("keep_thread") else head


def _named_thread(header: str | None, metadata: dict[str, str] | None) -> UUID | None:
    """The thread that a request names; None: it names none.

    Raises:
        ParameterNotSupported: What it names is no UUID, or the two names differ.
    """
    named = (metadata or {}).get("thread_id")
    if header and named and header.lower() != named.lower():
        raise ParameterNotSupported("X-Thread-Id and metadata.thread_id name different threads", "metadata.thread_id")
    try:
        return UUID(header or named) if header or named else None
    except ValueError:
        where = "X-Thread-Id" if header else "metadata.thread_id"
        raise ParameterNotSupported(f"{where} must be a UUID; choose one to begin a conversation", where) from None


async def _known(services: Services, tenant: str, thread_id: UUID) -> list[dict[str, Any]]:
    """The messages that the thread has; none if it has to be made."""
    try:
        record = await services.threads.get(tenant, str(thread_id))
    except NotFound:
        return []
    return list((await services.threads.values(tenant, record) or {}).get("messages") or ())


def _unknown(given: list[JsonValue], known: list[dict[str, Any]]) -> list[JsonValue]:
    """What of the messages that a client sent is new to the thread: most clients send everything that was said, each time."""
    if not known:
        return given
    messages = [message for message in given if isinstance(message, dict)]
    answered = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    instructions = [message["content"] for message in known if message["type"] == "system"]
    return [
        message
        for message in messages[answered + 1 :]
        if message["role"] not in ("system", "developer") or message["content"] not in instructions
    ]


def _delta(delta: dict[str, str]) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None}


def _chunk(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def _usage(values: dict[str, Any]) -> dict[str, int]:
    used = values.get("usage") or {"input_tokens": 0, "output_tokens": 0}
    read, written = used["input_tokens"], used["output_tokens"]
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _check_model(services: Services, model: str) -> None:
    known = services.assistants.graph_ids
    if model not in known:
        raise NotFound(f"there is no model {model!r}; there are: {', '.join(known)}", "model_not_found")


def _model(services: Services, graph_id: str) -> Model:
    return Model(id=graph_id, created=int(services.started_at.timestamp()))
