"""The clients that people have, unchanged: LangGraph's SDK, OpenAI's, and curl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from tests.support.protocol import GRAPH, some_id
from tests.support.service import Service

QUESTION = "Why was I charged a fee for my transfer?"
INPUT: Any = {"messages": [{"role": "user", "content": QUESTION}]}
KEY = "key-of-acme"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With a key, since that is how clients meet it elsewhere."""
    found = Service(tmp_path_factory.mktemp("clients"), API_KEYS=f"{KEY}:acme")
    try:
        yield found.start()
    finally:
        found.close()


async def test_the_async_sdk_holds_a_conversation(service: Service) -> None:
    """Threads, runs, state and history, as their documentation shows them."""
    async with get_client(url=service.url, api_key=KEY) as client:
        thread = await client.threads.create(metadata={"ticket": 7})
        thread_id = thread["thread_id"]
        values: Any = await client.runs.wait(thread_id, GRAPH, input=INPUT)

        assert values["sources"] == ["transfer-fees"]
        assert (await client.threads.get(thread_id))["values"] == values
        state: Any = await client.threads.get_state(thread_id)
        assert state["values"]["answer"] == values["answer"]
        history: Any = await client.threads.get_history(thread_id, limit=10)
        assert history[0]["checkpoint"] == state["checkpoint"]
        older: Any = await client.threads.get_history(thread_id, limit=10, before=history[0]["checkpoint"])
        assert older == history[1:]
        run: Any = await client.runs.get(thread_id, state["metadata"]["run_id"])
        assert run["status"] == "success"
        (assistant,) = await client.assistants.search(graph_id=GRAPH)
        again: Any = await client.runs.wait(thread_id, assistant["assistant_id"], input=INPUT)
        assert len(again["messages"]) > len(values["messages"])


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_the_async_sdk_streams_and_comes_back(service: Service, version: Any) -> None:
    """Several modes at once, in both shapes; what is joined later is what was streamed."""
    created: list[Any] = []
    async with get_client(url=service.url, api_key=KEY) as client:
        thread = await client.threads.create()
        parts: list[Any] = [
            part
            async for part in client.runs.stream(
                thread["thread_id"],
                GRAPH,
                input=INPUT,
                stream_mode=["messages-tuple", "updates", "values"],
                stream_resumable=True,
                on_run_created=created.append,
                version=version,
            )
        ]
        joined: list[Any] = [
            part
            async for part in client.runs.join_stream(thread["thread_id"], created[0]["run_id"], last_event_id="-1", stream_mode=["values"])
        ]

    assert [(run["thread_id"], bool(run["run_id"])) for run in created] == [(thread["thread_id"], True)]
    names = [part.event if version == "v1" else part["type"] for part in parts]
    assert names[0] == "metadata"
    assert {"messages", "updates", "values"} <= {*names}
    values = [part.data if version == "v1" else part["data"] for part, name in zip(parts, names, strict=True) if name == "values"]
    assert values[-1]["sources"] == ["transfer-fees"]
    assert [part.data for part in joined if part.event == "values"] == values
    assert joined[0].data["run_id"] == created[0]["run_id"]


def test_the_sync_sdk_does_the_same(service: Service) -> None:
    """Wait, stream and stateless runs."""
    with get_sync_client(url=service.url, api_key=KEY) as client:
        thread = client.threads.create()
        values: Any = client.runs.wait(thread["thread_id"], GRAPH, input=INPUT)
        parts = list(client.runs.stream(thread["thread_id"], GRAPH, input=INPUT, stream_mode="updates"))
        stateless: Any = client.runs.wait(None, GRAPH, input=INPUT)
        stateless_parts = list(client.runs.stream(None, GRAPH, input=INPUT, stream_mode=["values"]))

    assert values["sources"] == stateless["sources"] == ["transfer-fees"]
    assert [part.event for part in parts] == ["metadata", "updates", "updates", "updates", "end"]
    assert stateless_parts[-2].data["sources"] == ["transfer-fees"]


async def test_the_sdk_raises_its_own_errors_with_our_words(service: Service) -> None:
    """What is wrong is said in a sentence that reaches whoever called the SDK."""
    async with get_client(url=service.url, api_key=KEY) as client:
        thread = await client.threads.create()
        with pytest.raises(NotFoundError, match="there is no thread"):
            await client.threads.get(some_id())
        with pytest.raises(ConflictError, match="if_exists=do_nothing"):
            await client.threads.create(thread_id=thread["thread_id"])
        with pytest.raises(UnprocessableEntityError, match="there is no assistant 'nobody'"):
            _ = [part async for part in client.runs.stream(thread["thread_id"], "nobody", input=INPUT)]
        with pytest.raises(httpx.HTTPStatusError) as refused:  # what this SDK raises of a run that is waited for
            await client.runs.wait(thread["thread_id"], GRAPH, input={"messages": []})
        assert refused.value.response.json()["detail"].startswith("input.messages")
        assert (await client.threads.create(thread_id=thread["thread_id"], if_exists="do_nothing"))["thread_id"] == thread["thread_id"]


@pytest.fixture
def chat(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


MESSAGES: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": QUESTION}]


def test_the_openai_client_lists_models(chat: openai.OpenAI) -> None:
    """A model is an assistant."""
    assert [model.id for model in chat.models.list()] == [GRAPH]
    assert chat.models.retrieve(GRAPH).object == "model"


def test_the_openai_client_completes(chat: openai.OpenAI) -> None:
    """The answer, why it ended, and what it used."""
    completion = chat.chat.completions.create(model=GRAPH, messages=MESSAGES, temperature=0.2)

    assert completion.id.startswith("chatcmpl-")
    (choice,) = completion.choices
    assert "transfer" in (choice.message.content or "")
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens > 0


@pytest.mark.parametrize("has_usage", [True, False])
def test_the_openai_client_streams(chat: openai.OpenAI, has_usage: bool) -> None:
    """The same text in pieces: the role first, the reason last, and the usage only for who asked."""
    options: Any = {"stream_options": {"include_usage": True}} if has_usage else {}
    chunks = list(chat.chat.completions.create(model=GRAPH, messages=MESSAGES, stream=True, **options))
    whole = chat.chat.completions.create(model=GRAPH, messages=MESSAGES)

    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [has_usage]
    spoken = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert len(spoken) == len(chunks) - has_usage
    assert spoken[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in spoken] == [None] * (len(spoken) - 1) + ["stop"]
    assert len(spoken) > 10
    assert "".join(choice.delta.content or "" for choice in spoken) == whole.choices[0].message.content


def test_the_openai_client_raises_its_own_errors(chat: openai.OpenAI) -> None:
    """An unknown model, more than one answer, and a wrong key."""
    with pytest.raises(openai.NotFoundError, match="there is no model") as missing:
        chat.chat.completions.create(model="gpt-x", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        chat.chat.completions.create(model=GRAPH, messages=MESSAGES, n=2)
    assert refused.value.param == "n"
    with pytest.raises(openai.AuthenticationError) as unknown:
        chat.with_options(api_key="guess").models.list()
    assert unknown.value.code == "invalid_api_key"


@pytest.mark.needs("curl")
def test_curl_streams(service: Service) -> None:
    """No client is needed at all."""
    body = json.dumps({"assistant_id": GRAPH, "input": INPUT, "stream_mode": "messages-tuple"})
    command = ["curl", "-sN", "--fail", f"{service.url}/runs/stream", "-H", f"x-api-key: {KEY}", "-H", "content-type: application/json"]

    text = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=60, check=True).stdout

    assert text.startswith("event: metadata\n")
    assert text.count("event: messages\n") > 10
    assert text.count("event: end\n") == 1
