"""What `PlainChatOpenAI` sends and reads is what `ChatOpenAI` does, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from agents.models.openai import PlainChatOpenAI
from tests.support.provider import Provider, Reply, concludes

SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "find_order", "description": "Finds it.", "parameters": SCHEMA, "strict": True}}
CALL = {"name": "find_order", "args": {"yes": True, "word": "señal 🙂"}, "id": "call_1", "type": "tool_call"}
CONVERSATION: list[BaseMessage] = [
    SystemMessage("You help."),
    HumanMessage("Where is it?"),
    HumanMessage([{"type": "text", "text": "And this?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
    AIMessage("", tool_calls=[CALL]),
    ToolMessage('{"status": "sent"}', tool_call_id="call_1"),
    AIMessage("It was sent.", name="general_support"),
    HumanMessage("¿Seguro?"),
]
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tools": {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    "schema": {"response_format": FORMAT},
    "options": {"temperature": 0.2, "max_tokens": 50, "seed": 7, "stop": ["END"], "logit_bias": {"50256": -100}},
    "own fields": {"extra_body": {"guided_choice": ["a"]}, "extra_headers": {"x-mine": "1"}, "extra_query": {"api-version": "3"}},
}
ANSWERS = {"text": Reply("It was sent."), "calls": concludes("It was sent."), "cut": Reply("It was", finish="length")}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(lambda request: Reply('{"yes": true}')).serving() as provider:
        yield provider


def sent(provider: Provider) -> dict[str, Any]:
    """The last request; without a stream it says so or not, which is the same."""
    request = {name: value for name, value in provider.requests[-1].items() if name != "_at"}
    headers = request.pop("_headers")
    assert headers["authorization"] == "Bearer sk-test"
    return {"stream": False, **request, "x-mine": headers.get("x-mine")}


def models(provider: Provider, **options: Any) -> list[ChatOpenAI]:
    """The original and ours."""
    given: dict[str, Any] = {"model": "gpt-x", "api_key": SecretStr("sk-test"), "base_url": provider.url, "max_retries": 0, **options}
    return [ChatOpenAI(**given), PlainChatOpenAI(**given)]


def read(message: AIMessage) -> dict[str, Any]:
    """What an answer says; ids of calls are made anew each time."""
    metadata = {name: value for name, value in message.response_metadata.items() if name != "id"}
    calls = [(call["name"], call["args"]) for call in message.tool_calls]
    kwargs = {name: value for name, value in message.additional_kwargs.items() if name not in ("parsed", "tool_calls")}
    return {"text": message.text, "calls": calls, "usage": message.usage_metadata, "metadata": metadata, "kwargs": kwargs}


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("arguments", REQUESTS.values(), ids=REQUESTS)
async def test_the_same_request_is_sent(provider: Provider, arguments: dict[str, Any], is_streamed: bool) -> None:
    """Field by field, whatever messages and options it has."""
    provider.behaviour = lambda request: Reply('{"yes": true}')
    found = []
    for model in models(provider, stream_usage=True):
        if is_streamed:
            _ = [chunk async for chunk in model.astream(CONVERSATION, **arguments)]
        else:
            await model.ainvoke(CONVERSATION, **arguments)
        found.append(sent(provider))

    original, ours = found
    assert ours == original
    assert len(ours["messages"]) == len(CONVERSATION)


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("reply", ANSWERS.values(), ids=ANSWERS)
async def test_the_same_answer_is_read(provider: Provider, reply: Reply, is_streamed: bool) -> None:
    """Text, calls, usage and why it ended."""
    provider.behaviour = lambda request: reply
    found = []
    for model in models(provider, stream_usage=True, streaming=is_streamed):
        found.append(read(await model.ainvoke(CONVERSATION, tools=[TOOL])))

    original, ours = found
    assert ours == original


async def test_a_model_of_the_other_route_is_asked_there(provider: Provider) -> None:
    """OpenAI's responses API has another body, which stays as it is."""
    payloads = [model._get_request_payload(CONVERSATION) for model in models(provider, use_responses_api=True)]

    assert payloads[0] == payloads[1]
    assert "input" in payloads[1]
