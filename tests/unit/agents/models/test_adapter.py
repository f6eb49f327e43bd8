"""How any LangChain model becomes one of ours, and its provider's errors our errors."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import openai
import pytest
from langchain_core.exceptions import ModelAPIError, ModelAuthenticationError
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai.chat_models.base import OpenAIContextOverflowError, OpenAIRateLimitError
from langgraph.graph import END, START, MessagesState, StateGraph

from agents.errors import (
    ModelRejectedRequest,
    ModelThrottled,
    ModelTimedOut,
    ModelUnavailable,
    OutputInvalid,
    QuotaExhausted,
    StreamBroken,
)
from agents.models.adapter import LangChainModel
from agents.models.port import ModelReply, ModelRequest
from agents.models.prices import cost_usd
from agents.models.scripted import ScriptedChatModel, calls
from agents.usage import Usage
from resilience.context import CallContext
from resilience.deadline import Deadline
from tests.support.virtual_time import LoopClock

SENT = httpx2.Request("POST", "http://provider/v1/chat/completions")


def answered(status: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers={name.replace("_", "-"): value for name, value in headers.items()}, request=SENT)


def adapted(*lines: Any) -> LangChainModel:
    return LangChainModel(ScriptedChatModel(lines=list(lines)), name="gpt-4.1-mini", provider="openai")


def call() -> CallContext:
    return CallContext("model:openai/gpt-4.1-mini", Deadline.after(60.0, LoopClock()))


def asked(**changes: Any) -> ModelRequest:
    return ModelRequest("reasoning", (HumanMessage("Is it so?"),), **changes)


ERRORS = [
    (openai.RateLimitError("slow down", response=answered(429, retry_after="7"), body=None), ModelThrottled),
    (OpenAIRateLimitError("slow down", response=answered(429), body={"code": "rate_limit_exceeded"}), ModelThrottled),
    (openai.RateLimitError("pay", response=answered(429), body={"code": "insufficient_quota"}), QuotaExhausted),
    (openai.InternalServerError("ill", response=answered(500), body=None), ModelUnavailable),
    (openai.InternalServerError("ill", response=answered(503, retry_after="3"), body=None), ModelUnavailable),
    (openai.APIStatusError("slow", response=answered(408), body=None), ModelUnavailable),
    (openai.ConflictError("busy", response=answered(409), body=None), ModelUnavailable),
    (openai.APIConnectionError(request=SENT), ModelUnavailable),
    (openai.APIError("in the stream", SENT, body=None), ModelUnavailable),
    (ConnectionResetError("gone"), ModelUnavailable),
    (openai.APITimeoutError(SENT), ModelTimedOut),
    (TimeoutError("no chunk"), ModelTimedOut),
    (openai.BadRequestError("bad", response=answered(400), body=None), ModelRejectedRequest),
    (openai.AuthenticationError("who", response=answered(401), body=None), ModelRejectedRequest),
    (openai.PermissionDeniedError("no", response=answered(403), body=None), ModelRejectedRequest),
    (openai.NotFoundError("where", response=answered(404), body=None), ModelRejectedRequest),
    (OpenAIContextOverflowError("long", response=answered(400), body=None), ModelRejectedRequest),
    (openai.APIResponseValidationError(answered(200), None), OutputInvalid),
    (ModelAPIError("another provider's 500"), ModelUnavailable),
    (ModelAuthenticationError("another provider's 401"), ModelRejectedRequest),
    (ValueError("no JSON"), OutputInvalid),
    (KeyError("choices"), OutputInvalid),
]


@pytest.mark.parametrize(("raised", "ours"), ERRORS, ids=lambda value: getattr(value, "__name__", type(value).__name__))
async def test_a_providers_error_becomes_one_of_ours(raised, ours):
    """The table of `agents.errors`; the provider's own error stays reachable as the cause."""
    with pytest.raises(ours) as caught:
        await adapted(raised).complete(asked(), call())

    assert type(caught.value) is ours
    assert caught.value.__cause__ is raised


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
WAITS = [
    ({"retry_after": "7"}, 7.0),
    ({"retry_after": "0.5"}, 0.5),
    ({"retry_after_ms": "1500"}, 1.5),
    ({"retry_after_ms": "1500", "retry_after": "2"}, 1.5),
    ({"retry_after_ms": "soon", "retry_after": "2"}, 2.0),
    ({"retry_after": DATE, "date": "Wed, 21 Oct 2026 07:27:30 GMT"}, 30.0),
    ({"retry_after": DATE, "date": "Wed, 21 Oct 2026 09:27:30 +0200"}, 30.0),
    ({"retry_after": DATE, "date": "Wed, 21 Oct 2026 07:28:30 GMT"}, 0.0),
    ({"retry_after": "Wednesday, 21-Oct-26 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:27:59 GMT"}, 1.0),
    ({"retry_after": "Wed Oct 21 07:28:00 2026", "date": "Wed Oct 21 07:27:50 2026"}, 10.0),
    ({"retry_after": "Wed, 21 Oct 1998 07:28:00 GMT"}, 0.0),
    ({"retry_after": "Wed, 99 Oct 2026 07:28:00 GMT"}, None),
    ({"retry_after": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}, None),
    ({"retry_after": "-3"}, None),
    ({"retry_after": "inf"}, None),
    ({"retry_after": "nan"}, None),
    ({"retry_after": "1e999"}, None),
    ({"retry_after": "in a while"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), WAITS, ids=str)
async def test_the_wait_that_a_provider_asks_for_is_kept(headers, seconds):
    """In milliseconds, in seconds or as a date by the provider's own clock; what makes no sense counts as nothing."""
    response = answered(429, **headers)

    with pytest.raises(ModelThrottled) as caught:
        await adapted(openai.RateLimitError("slow down", response=response, body=None)).complete(asked(), call())

    assert caught.value.retry_after == seconds


async def test_a_date_without_the_providers_clock_is_taken_by_ours():
    """A response without a `Date` of its own."""
    response = answered(429, retry_after=format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))

    with pytest.raises(ModelThrottled) as caught:
        await adapted(openai.RateLimitError("slow down", response=response, body=None)).complete(asked(), call())

    assert caught.value.retry_after == pytest.approx(3600, abs=60)


@pytest.mark.parametrize("error", [ModelThrottled("ours"), OutputInvalid("empty", "ours"), AssertionError("a fault of the program")])
async def test_what_is_not_a_providers_error_passes_unchanged(error):
    """Neither our own errors nor faults of the program are dressed up as something else."""
    with pytest.raises(type(error)) as caught:
        await adapted(error).complete(asked(), call())

    assert caught.value is error
    assert caught.value.__cause__ is None


class Unfinished(ScriptedChatModel):
    """Answers with the message it is given, metadata included."""

    def _say(self, messages: list[Any]) -> AIMessage:
        message: AIMessage = self.lines[0]
        return message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (AIMessage(""), "empty"),
        (AIMessage(" \n"), "empty"),
        (AIMessage("half a", response_metadata={"finish_reason": "length"}), "cut"),
        (AIMessage("a stream that just ends"), "cut"),
        (AIMessage("I", response_metadata={"finish_reason": "content_filter"}), "refused"),
        (AIMessage("", additional_kwargs={"refusal": "I will not"}), "refused"),
        (AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": None, "type": "invalid_tool_call"}]), "garbage"),
    ],
)
async def test_what_is_no_answer_is_told_apart(message, reason):
    """Nothing unusable gets past the adapter as an answer."""
    model = LangChainModel(Unfinished(lines=[message]), name="m", provider="p")

    with pytest.raises(OutputInvalid) as caught:
        await model.complete(asked(), call())

    assert caught.value.reason == reason


async def test_a_tool_call_without_text_is_an_answer():
    """Most messages of a specialist have no text."""
    reply = await adapted(calls(("look_up", {"word": "cat"}))).complete(asked(), call())

    assert [made["name"] for made in reply.message.tool_calls] == ["look_up"]


class Breaking(ScriptedChatModel):
    """Streams its words, then breaks."""

    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for word in self.lines:
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        raise openai.APIConnectionError(request=SENT)


class Show:
    """One model call inside a node, and what a reader of the graph's token stream sees of it."""

    def __init__(self, model: LangChainModel, request: ModelRequest) -> None:
        self.tokens: list[tuple[str, str | None, str]] = []
        self.started_after: list[bool] = []
        self.outcome: ModelReply | Exception | None = None
        self.ctx = call()
        graph = StateGraph(MessagesState)

        async def speaker(state: MessagesState) -> dict[str, Any]:
            try:
                self.outcome = await model.complete(request, self.ctx)
            except Exception as exc:
                self.outcome = exc
            return {}

        graph.add_node("speaker", speaker)
        graph.add_edge(START, "speaker")
        graph.add_edge("speaker", END)
        self._graph = graph.compile()

    async def play(self) -> "Show":
        async for part in self._graph.astream({"messages": []}, stream_mode=["messages"], version="v2"):
            chunk, meta = part["data"]
            self.tokens.append((chunk.text, chunk.id, meta["langgraph_node"]))
        return self


async def test_tokens_of_a_visible_call_are_streamed_under_the_nodes_name():
    """Word by word, under the id that the whole message has."""
    show = await Show(adapted("one two three"), asked(is_visible=True)).play()

    assert isinstance(show.outcome, ModelReply)
    words = [text for text, _, _ in show.tokens if text]
    assert words == ["one", " two", " three"]
    assert {(message_id, node) for _, message_id, node in show.tokens} == {(show.outcome.message.id, "speaker")}
    assert type(show.outcome.message) is AIMessage


async def test_tokens_of_a_hidden_call_stay_inside():
    """A routing decision is nobody's reading."""
    show = await Show(adapted('{"specialist": "x"}'), asked(is_visible=False)).play()

    assert isinstance(show.outcome, ModelReply)
    assert show.tokens == []
    assert not show.ctx.output.has_started


async def test_the_output_starts_with_the_first_word_and_not_with_a_tool_call():
    """Until then a retry or another model may begin anew."""
    silent = await Show(adapted(calls(("look_up", {"word": "cat"}))), asked(is_visible=True)).play()
    spoken = await Show(adapted("Yes."), asked(is_visible=True)).play()

    assert (silent.ctx.output.has_started, spoken.ctx.output.has_started) == (False, True)


async def test_without_a_reader_of_tokens_nothing_has_started():
    """A call that is not streamed may be made again until its answer is there."""
    ctx = call()

    await adapted("Yes.").complete(asked(is_visible=True), ctx)

    assert not ctx.output.has_started


async def test_a_stream_that_breaks_before_its_first_word_may_be_tried_again():
    """Nobody has seen anything."""
    show = await Show(LangChainModel(Breaking(lines=[""]), name="m", provider="p"), asked(is_visible=True)).play()

    assert type(show.outcome) is ModelUnavailable


async def test_a_stream_that_breaks_after_its_first_word_may_not():
    """The reader would see the beginning twice."""
    show = await Show(LangChainModel(Breaking(lines=["one", " two"]), name="m", provider="p"), asked(is_visible=True)).play()

    assert type(show.outcome) is StreamBroken
    assert [text for text, _, _ in show.tokens] == ["one", " two"]


async def test_usage_is_the_same_whether_streamed_or_not():
    """Tokens as the provider counts them, and their price."""
    whole = await adapted("one two three").complete(asked(is_visible=True), call())
    streamed = (await Show(adapted("one two three"), asked(is_visible=True)).play()).outcome

    assert isinstance(streamed, ModelReply)
    assert whole.usage == streamed.usage
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (3, 3)
    assert whole.usage.cost_usd == cost_usd("openai", "gpt-4.1-mini", 3, 3) > 0.0


async def test_an_answer_without_usage_is_still_an_answer():
    """Some self-hosted servers count nothing."""
    model = LangChainModel(Unfinished(lines=[AIMessage("Yes.", response_metadata={"finish_reason": "stop"})]), name="m", provider="p")

    assert (await model.complete(asked(), call())).usage == Usage()


def test_a_model_without_a_price_costs_nothing():
    """Unknown, self-hosted and offline models are free in the books."""
    assert [cost_usd(*model, 1000, 1000) for model in (("openai", "no-such-model"), ("127.0.0.1:8080", "x"), ("offline", "offline"))] == [
        0.0
    ] * 3


def test_a_provider_is_known_by_its_address_too():
    """Naming OpenAI's own address changes nothing about the price."""
    assert cost_usd("api.openai.com", "gpt-4.1-mini", 1000, 1000) == cost_usd("openai", "gpt-4.1-mini", 1000, 1000)
