"""OpenAI's client, asynchronous: what the blocking one's tests (`test_clients.py`) leave open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.engine_process import BRISK
from tests.support.fleet import Fleet, Member
from tests.support.protocol import GRAPH
from tests.support.provider import Provider, Reply, concludes, is_routing, routes_to

QUESTION = "Why was I charged a fee for my transfer?"


@pytest.fixture
async def chat(served: Member, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def ask(chat: openai.AsyncOpenAI, *messages: dict[str, Any], **wishes: Any) -> Any:
    given: Any = messages or ({"role": "user", "content": QUESTION},)
    return await chat.chat.completions.create(model=GRAPH, messages=given, **wishes)


async def test_models_and_one_of_them(chat: openai.AsyncOpenAI) -> None:
    """The supervisor is one of them, with every field."""
    listed = [model async for model in chat.models.list()]
    found = await chat.models.retrieve(GRAPH)

    assert found in listed
    assert (found.id, found.object, type(found.created)) == (GRAPH, "model", int)
    assert found.owned_by


async def test_a_completion_and_its_stream_say_the_same(chat: openai.AsyncOpenAI) -> None:
    """One id and one time over all chunks, the role first, the reason and then the usage last."""
    whole = await ask(chat)
    chunks = [chunk async for chunk in await ask(chat, stream=True, stream_options={"include_usage": True})]

    spoken = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert (whole.object, whole.model, whole.choices[0].message.role) == ("chat.completion", GRAPH, "assistant")
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert spoken[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in spoken if choice.finish_reason] == ["stop"]
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], whole.usage.total_tokens)
    assert "".join(choice.delta.content or "" for choice in spoken) == whole.choices[0].message.content


async def test_every_role_and_form_of_content_is_understood(chat: openai.AsyncOpenAI) -> None:
    """A developer speaks, parts of text are one text, and an earlier turn with its tool call is part of the conversation."""
    call = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    answer = await ask(
        chat,
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "nothing found"},
        {"role": "assistant", "content": "Hello, how can I help?"},
        {"role": "user", "content": [{"type": "text", "text": "Why was I charged a fee"}, {"type": "text", "text": " for my transfer?"}]},
    )

    assert "transfer" in answer.choices[0].message.content


async def test_what_has_no_meaning_here_is_tolerated(chat: openai.AsyncOpenAI) -> None:
    """Sampling, limits and the rest change nothing and are no error."""
    wishes: Any = {
        "temperature": 0.2,
        "top_p": 0.9,
        "max_tokens": 10,
        "max_completion_tokens": 10,
        "seed": 7,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "stop": ["x"],
        "logit_bias": {},
        "n": 1,
        "user": "somebody",
        "parallel_tool_calls": False,
        "extra_body": {"top_k": 4},
    }
    assert (await ask(chat, **wishes)).choices[0].message.content == (await ask(chat)).choices[0].message.content


async def test_what_is_wrong_raises_the_clients_own_errors(chat: openai.AsyncOpenAI, served: Member, key: str) -> None:
    """An unknown model, two answers, no message, a form that is none, a wrong key."""
    with pytest.raises(openai.NotFoundError) as missing:
        await chat.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.NotFoundError) as no_model:
        await chat.models.retrieve("gpt-x")
    with pytest.raises(openai.BadRequestError) as two:
        await ask(chat, n=2)
    with pytest.raises(openai.BadRequestError) as nothing:
        await chat.chat.completions.create(model=GRAPH, messages=[])
    with pytest.raises(openai.BadRequestError) as odd:
        await ask(chat, {"role": "somebody", "content": "hi"})
    with pytest.raises(openai.AuthenticationError) as unknown:
        await ask(chat.with_options(api_key="guess"))

    assert [found.value.code for found in (missing, no_model, unknown)] == ["model_not_found", "model_not_found", "invalid_api_key"]
    assert two.value.param == "n"
    assert {found.value.type for found in (two, nothing, odd)} == {"invalid_request_error"}
    async with httpx.AsyncClient(base_url=served.url, headers={"authorization": f"Bearer {key}"}) as http:
        refused = [
            await http.get("/v1/nowhere"),
            await http.get("/v1/chat/completions"),
            await http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}),
        ]
    assert [answer.status_code for answer in refused] == [404, 405, 400]
    assert {frozenset(answer.json()["error"]) for answer in refused} == {frozenset({"message", "type", "param", "code"})}


async def test_a_completion_has_a_run_that_can_be_looked_at(chat: openai.AsyncOpenAI, served: Member, key: str) -> None:
    """It is named in `Content-Location`, with a thread like any other."""
    raw = await chat.chat.completions.with_raw_response.create(model=GRAPH, messages=[{"role": "user", "content": QUESTION}])
    path = raw.headers["content-location"]

    async with httpx.AsyncClient(base_url=served.url, headers={"x-api-key": key}) as http:
        assert (await http.get(path)).json()["status"] == "success"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(lambda request: Reply(status=500)).serving() as found:
        yield found


@pytest.fixture(scope="module")
def strict(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """A gateway with a real provider, few runs a minute for a key, and no second model."""
    variables = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": provider.url, "MODEL_ROUTING": "m", "MODEL_REASONING": "m"}
    fleet = Fleet(tmp_path_factory.mktemp("openai"), None, EXECUTION="local", API_KEYS="limited:acme", RATE_LIMIT_RPM="2", **variables)
    try:
        yield fleet.gateway(EXECUTION="local")
    finally:
        fleet.close()


async def test_a_failure_within_a_stream_is_raised_in_mid_stream(served: Member, key: str) -> None:
    """The run has begun and fails: the client raises what is in the stream."""
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as chat:
        stream = await chat.chat.completions.create(model=BRISK, messages=[{"role": "user", "content": "boom"}], stream=True)
        with pytest.raises(openai.APIError, match="the run failed"):
            _ = [chunk async for chunk in stream]


async def test_too_many_requests_are_a_rate_limit_error_after_which_the_client_waits(strict: Member, provider: Provider) -> None:
    """429 with `Retry-After`, in the client's own error; what was within the allowance was answered."""
    provider.behaviour = lambda request: routes_to("billing_support") if is_routing(request) else concludes("There is a fee.")
    async with openai.AsyncOpenAI(base_url=f"{strict.url}/v1", api_key="limited", max_retries=0) as chat:
        answers = [(await ask(chat)).choices[0].message.content for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as limited:
            await ask(chat)

    assert answers == ["There is a fee."] * 2
    assert limited.value.code == "rate_limit_exceeded"
    assert int(limited.value.response.headers["retry-after"]) >= 1
