"""The OpenAI adapter and the gateway against a provider over real HTTP, healthy and ill."""

import asyncio
import json
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from pydantic import SecretStr

from agents.controls import schemas
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
from agents.models.gateway import ModelGateway, dependency
from agents.models.limits import ModelLimits
from agents.models.openai import openai_model
from agents.models.port import ModelReply, ModelRequest
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
from tests.support.cast import CountingMeter, RecordingTracer
from tests.support.provider import Provider, Reply
from tests.support.reader import Reader

KEY = SecretStr("sk-test")
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
TIMEOUT = 1.0
"""How long the models of the tests about hanging wait, seconds."""
HURRIED = ModelLimits(connect=TIMEOUT, first_token=TIMEOUT, between_tokens=TIMEOUT, total=TIMEOUT)


@pytest.fixture
def provider():
    with Provider(lambda request: Reply("one two three")).serving() as provider:
        yield provider


class AtOnce(Random):
    """Jitter that never waits."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


def model(provider: Provider, name: str = "gpt-x", **options: Any) -> LangChainModel:
    return openai_model(name, api_key=KEY, base_url=provider.url, **options)


def gateway(*models: LangChainModel) -> ModelGateway:
    return ModelGateway({"reasoning": models}, PolicyRegistry(rng=AtOnce()), RecordingTracer(), CountingMeter())


def asked(**changes: Any) -> ModelRequest:
    return ModelRequest("reasoning", (HumanMessage("Is it so, after all that was said?"),), **changes)


async def whole(model: LangChainModel, **changes: Any) -> ModelReply:
    """One attempt, not streamed."""
    return await model.complete(asked(**changes), CallContext("model:x", Deadline.after(30.0)))


async def streamed(model: LangChainModel, **changes: Any) -> Reader:
    """One attempt with somebody reading."""
    return await Reader().watch(lambda: model.complete(asked(is_visible=True, **changes), CallContext("model:x", Deadline.after(30.0))))


def completion(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **more}
    return Reply(raw=json.dumps(body).encode())


async def test_a_whole_answer_has_text_usage_and_its_schema_was_sent(provider):
    """One request; a hidden call is not streamed."""
    provider.behaviour = lambda request: Reply('{"yes": true}')

    reply = await whole(model(provider), response_schema=SCHEMA, schema_name="verdict")

    assert reply.message.text == '{"yes": true}'
    assert min(reply.usage.input_tokens, reply.usage.output_tokens) > 0
    [request] = provider.requests
    assert request["response_format"]["json_schema"] == {"name": "verdict", "schema": SCHEMA, "strict": True}
    assert not request.get("stream")
    assert request["_headers"]["authorization"] == "Bearer sk-test"


async def test_a_streamed_answer_is_read_word_by_word_under_its_messages_id(provider):
    """With the same usage as the whole one."""
    reader = await streamed(model(provider))
    counted = (await whole(model(provider))).usage

    assert isinstance(reader.outcome, ModelReply)
    assert [text for text, _ in reader.tokens if text] == ["one", " two", " three"]
    assert {message_id for _, message_id in reader.tokens} == {reader.outcome.message.id}
    assert reader.outcome.usage == counted
    assert provider.requests[0]["stream_options"] == {"include_usage": True}


async def test_nothing_of_a_hidden_call_is_read(provider):
    """A reader of the graph does not see it, and the provider is not asked to stream."""
    reader = await Reader().watch(lambda: whole(model(provider)))

    assert isinstance(reader.outcome, ModelReply)
    assert reader.tokens == []
    assert not provider.requests[0].get("stream")


async def test_tools_are_offered_and_their_calls_come_back(provider):
    """Streamed and whole alike."""
    provider.behaviour = lambda request: Reply("So.", calls=(("conclude", {"confidence": 0.9, "sources": ["ñ"]}),))

    reader = await streamed(model(provider), tools=schemas())
    reply = await whole(model(provider), tools=schemas())

    assert isinstance(reader.outcome, ModelReply)
    for message in (reader.outcome.message, reply.message):
        assert [(call["name"], call["args"]) for call in message.tool_calls] == [("conclude", {"confidence": 0.9, "sources": ["ñ"]})]
    assert [tool["function"]["name"] for tool in provider.requests[0]["tools"]] == ["conclude", "hand_back", "call_human"]


CASES: dict[str, tuple[Reply, type[Exception]]] = {
    "500": (Reply(status=500), ModelUnavailable),
    "503": (Reply(status=503, headers={"retry-after": "2"}), ModelUnavailable),
    "429": (Reply(status=429, code="rate_limit_exceeded", headers={"retry-after": "2"}), ModelThrottled),
    "quota": (Reply(status=429, code="insufficient_quota"), QuotaExhausted),
    "400": (Reply(status=400, code="invalid_request_error"), ModelRejectedRequest),
    "too long": (Reply(status=400, code="context_length_exceeded"), ModelRejectedRequest),
    "401": (Reply(status=401, code="invalid_api_key"), ModelRejectedRequest),
    "404": (Reply(status=404, code="model_not_found"), ModelRejectedRequest),
    "hang": (Reply(hangs=True), ModelTimedOut),
    "no json": (Reply(raw=b"{half a"), OutputInvalid),
    "a web page": (Reply(raw=b"<html>Welcome!</html>", headers={"content-type": "text/html"}), OutputInvalid),
    "other json": (Reply(raw=b'{"ok": true}'), OutputInvalid),
    "null": (Reply(raw=b"null"), OutputInvalid),
    "no choices": (Reply(raw=b'{"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": []}'), OutputInvalid),
    "no text": (Reply(""), OutputInvalid),
    "too short": (Reply("half an", finish="length"), OutputInvalid),
    "filtered": (Reply("I", finish="content_filter"), OutputInvalid),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("manner", ["whole", "with a schema", "streamed"])
async def test_what_a_provider_does_wrong_has_a_name(provider, case, manner):
    """The same one however it was asked, after exactly one request, and in time."""
    reply, error = CASES[case]
    provider.behaviour = lambda request: reply
    asks = model(provider, **({"limits": HURRIED} if reply.hangs else {}))
    begun = time.monotonic()

    if manner == "streamed":
        outcome = (await streamed(asks)).outcome
    else:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the type is asserted below, exactly
            await whole(asks, response_schema=SCHEMA if manner == "with a schema" else None)
        outcome = caught.value

    assert type(outcome) is error
    assert len(provider.requests) == 1
    assert not reply.hangs or time.monotonic() - begun < 3 * TIMEOUT


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion({"content": None, "refusal": "I will not."}), "refused"),
        (completion({"content": None}), "empty"),
        (
            completion({"content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{half"}}]}),
            "garbage",
        ),
    ],
)
async def test_what_came_is_no_answer(provider, reply, reason):
    """A refusal, nothing, and arguments that are not JSON are told apart."""
    provider.behaviour = lambda request: reply

    with pytest.raises(OutputInvalid) as caught:
        await whole(model(provider))

    assert caught.value.reason == reason


async def test_the_providers_wait_is_read(provider):
    """In seconds, from 429 and 503 alike."""
    for status in (429, 503):
        provider.behaviour = lambda request, status=status: Reply(status=status, headers={"retry-after": "2"})
        with pytest.raises((ModelThrottled, ModelUnavailable)) as caught:
            await whole(model(provider))
        assert caught.value.retry_after == 2.0


async def test_the_providers_wait_is_read_as_a_date(provider):
    """As RFC 9110 allows it."""
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    provider.behaviour = lambda request: Reply(status=429, headers={"retry-after": later})

    with pytest.raises(ModelThrottled) as caught:
        await whole(model(provider))

    assert caught.value.retry_after == pytest.approx(60, abs=5)


async def test_an_exhausted_quota_is_asked_once(provider):
    """Through the whole gateway: no retry, and the next model is asked instead; the breaker stays closed."""
    provider.behaviour = lambda request: (
        Reply(status=429, code="insufficient_quota", headers={"retry-after": "1"})
        if request["model"] == "first"
        else Reply("from the second")
    )
    policies = PolicyRegistry(rng=AtOnce())
    models = [model(provider, name) for name in ("first", "second")]
    asking = ModelGateway({"reasoning": models}, policies, RecordingTracer(), CountingMeter())

    reply = await asking.complete(asked(), Deadline.after(30.0))

    assert [request["model"] for request in provider.requests] == ["first", "second"]
    assert [entry.why for entry in reply.degraded] == ["model_quota_exhausted"]
    assert policies.breaker(dependency(models[0])).is_admitting


async def test_a_dead_provider_is_not_stormed(provider):
    """The breaker held closed, every question fails: the provider gets a tenth more requests than questions, and ten per ten seconds."""
    provider.behaviour = lambda request: Reply(status=500)
    policies = PolicyRegistry(ResilienceSettings(off=frozenset({PolicyName.BREAKER})), rng=AtOnce())
    asking = ModelGateway({"reasoning": [model(provider)]}, policies, RecordingTracer(), CountingMeter())
    begun, questions = time.monotonic(), 50

    for _ in range(questions):
        with pytest.raises(ModelUnavailable):
            await asking.complete(asked(), Deadline.after(30.0))

    windows = (time.monotonic() - begun) // 10 + 1
    assert questions < len(provider.requests) <= 1.1 * questions + 10 * windows


@pytest.mark.alone("no second call is begun where this process itself is late")
async def test_a_straggler_is_asked_again_and_its_connection_closed(provider):
    """Over real connections: twenty usual answers, one that hangs; the second request answers, and one request was cancelled."""
    provider.behaviour = lambda request: Reply("one two three", hangs=len(provider.requests) == 21)
    meter = CountingMeter()
    asking = ModelGateway({"reasoning": [model(provider)]}, PolicyRegistry(), RecordingTracer(), meter)

    for _ in range(21):
        assert (await asking.complete(asked(), Deadline.after(30.0))).message.text == "one two three"

    assert len(provider.requests) == 22
    assert meter.attempts[20:] == [("gpt-x", "ok"), ("gpt-x", "cancelled")]
    assert await asyncio.to_thread(provider.reader_left.wait, 10)


async def test_a_provider_that_is_not_there_is_out_of_reach():
    """A refused connection fails at once."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port, and nobody answers
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"

        with pytest.raises(ModelUnavailable):
            await whole(openai_model("gpt-x", api_key=KEY, base_url=url))


async def test_a_stream_cut_before_its_first_word_may_be_tried_again(provider):
    """Nobody has read anything."""
    provider.behaviour = lambda request: Reply("one two three", cut_after=0)

    reader = await streamed(model(provider))

    assert (type(reader.outcome), reader.text) == (ModelUnavailable, "")


async def test_a_stream_cut_after_its_first_word_may_not(provider):
    """Half an answer is told from a whole one although the connection closed in good order."""
    provider.behaviour = lambda request: Reply("one two three", cut_after=2)

    reader = await streamed(model(provider))

    assert (type(reader.outcome), reader.text) == (StreamBroken, "one two")


async def test_a_stream_that_stops_talking_is_given_up(provider):
    """The gap between two chunks is bounded."""
    provider.behaviour = lambda request: Reply("one two three", pause=20.0)
    silent = model(provider, limits=HURRIED)
    begun = time.monotonic()

    reader = await streamed(silent)

    assert type(reader.outcome) is ModelTimedOut
    assert time.monotonic() - begun < 3 * TIMEOUT


async def test_one_attempt_is_one_request(provider):
    """Three attempts of ours are three requests: the client under them never tries again by itself."""
    provider.behaviour = lambda request: Reply(status=500)

    with pytest.raises(ModelUnavailable):
        await gateway(model(provider)).complete(asked(), Deadline.after(30.0))

    assert len(provider.requests) == 3


async def test_the_second_model_answers_when_the_first_cannot(provider):
    """At the same or another endpoint; the reader sees only the second one's words."""
    provider.behaviour = lambda request: Reply("from the second") if request["model"] == "second" else Reply("no", cut_after=0)
    models = gateway(model(provider, "first"), model(provider, "second"))

    reader = await Reader().watch(lambda: models.complete(asked(is_visible=True), Deadline.after(30.0)))

    assert isinstance(reader.outcome, ModelReply)
    assert (reader.text, reader.outcome.message.text, reader.outcome.model) == ("from the second", "from the second", "second")
    assert [entry.why for entry in reader.outcome.degraded] == ["model_unavailable"]
    assert [request["model"] for request in provider.requests] == ["first"] * 3 + ["second"]


async def test_a_stream_that_was_read_is_neither_repeated_nor_replaced(provider):
    """One request in all, and the reader saw each word once."""
    provider.behaviour = lambda request: Reply("one two three", cut_after=2)
    models = gateway(model(provider, "first"), model(provider, "second"))

    reader = await Reader().watch(lambda: models.complete(asked(is_visible=True), Deadline.after(30.0)))

    assert (type(reader.outcome), reader.text, len(provider.requests)) == (StreamBroken, "one two", 1)
