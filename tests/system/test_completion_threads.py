"""Conversations over OpenAI's protocol: a named thread remembers, whatever part of the conversation its client sends again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.protocol import GRAPH, some_id
from tests.support.service import Service

FIRST, SECOND = "How do I change my PIN?", "Why was I charged a fee for my transfer?"
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With two tenants."""
    found = Service(tmp_path_factory.mktemp("threads"), API_KEYS="a-key:acme,b-key:bolt")
    try:
        yield found.start()
    finally:
        found.close()


@pytest.fixture
def chat(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="a-key", max_retries=0) as client:
        yield client


@pytest.fixture
def acme(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, headers={"x-api-key": "a-key"}, timeout=30) as client:
        yield client


def said(http: httpx.Client, thread_id: str) -> list[tuple[str, str]]:
    """Who said what in the thread, without the use of tools."""
    messages = http.get(f"/threads/{thread_id}/state").raise_for_status().json()["values"]["messages"]
    return [(message["type"], message["content"]) for message in messages if message["type"] != "tool" and message["content"]]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("sends", ["everything", "what is new", "instructions and what is new"])
@pytest.mark.parametrize("by", ["header", "metadata"])
def test_a_named_thread_remembers_and_doubles_nothing(chat: openai.OpenAI, acme: httpx.Client, sends: str, by: str) -> None:
    """The thread is made, and each turn is there once; the answer names it in its header and its metadata."""
    thread_id = some_id()
    naming: Any = {"extra_headers": {"X-Thread-Id": thread_id}} if by == "header" else {"metadata": {"thread_id": thread_id}}
    first: Any = chat.chat.completions.with_raw_response.create(model=GRAPH, messages=[SYSTEM, user(FIRST)], **naming)
    answer = first.parse().choices[0].message.content
    history = [SYSTEM, user(FIRST), {"role": "assistant", "content": answer}]
    messages: Any = {
        "everything": [*history, user(SECOND)],
        "what is new": [user(SECOND)],
        "instructions and what is new": [{**SYSTEM, "role": "developer"}, user(SECOND)],
    }[sends]
    second: Any = chat.chat.completions.create(model=GRAPH, messages=messages, **naming)

    assert first.headers["x-thread-id"] == thread_id
    assert second.metadata == {"thread_id": thread_id}
    assert said(acme, thread_id) == [
        ("system", "Be kind."), ("human", FIRST), ("ai", answer), ("human", SECOND), ("ai", second.choices[0].message.content)
    ]  # fmt: skip


def test_a_streamed_completion_names_its_thread_too(chat: openai.OpenAI, acme: httpx.Client) -> None:
    """In the header and in every chunk; what was streamed is what the thread has."""
    thread_id = some_id()
    with chat.chat.completions.with_streaming_response.create(
        model=GRAPH, messages=[user(FIRST)], stream=True, extra_headers={"X-Thread-Id": thread_id}  # type: ignore[list-item]
    ) as response:  # fmt: skip
        chunks: list[Any] = list(response.parse())
        header = response.headers["x-thread-id"]

    assert header == thread_id
    assert {chunk.metadata["thread_id"] for chunk in chunks} == {thread_id}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said(acme, thread_id) == [("human", FIRST), ("ai", text)]


def test_a_completion_without_a_thread_leaves_none(chat: openai.OpenAI, acme: httpx.Client) -> None:
    """Nothing is named, as before."""
    raw: Any = chat.chat.completions.with_raw_response.create(model=GRAPH, messages=[user(FIRST)])  # type: ignore[list-item]

    assert "x-thread-id" not in raw.headers
    assert "metadata" not in raw.parse().model_dump(exclude_none=True)


def test_a_thread_of_another_tenant_is_another_thread(service: Service, chat: openai.OpenAI, acme: httpx.Client) -> None:
    """The same id under another key is a new conversation; neither sees the other's."""
    thread_id = some_id()
    naming: Any = {"extra_headers": {"X-Thread-Id": thread_id}}
    chat.chat.completions.create(model=GRAPH, messages=[user(FIRST)], **naming)
    chat.with_options(api_key="b-key").chat.completions.create(model=GRAPH, messages=[user(SECOND)], **naming)
    with httpx.Client(base_url=service.url, headers={"x-api-key": "b-key"}) as bolt:
        theirs = said(bolt, thread_id)

    assert [text for kind, text in said(acme, thread_id) if kind == "human"] == [FIRST]
    assert [text for kind, text in theirs if kind == "human"] == [SECOND]


def test_the_same_request_again_is_the_same_completion(acme: httpx.Client) -> None:
    """An `Idempotency-Key` stands for what was sent, although the thread has it by then."""
    thread_id, key = some_id(), some_id()
    body = {"model": GRAPH, "messages": [SYSTEM, user(FIRST)]}
    headers = {"X-Thread-Id": thread_id, "Idempotency-Key": key}
    answers = [acme.post("/v1/chat/completions", json=body, headers=headers).raise_for_status().json() for _ in range(2)]
    elsewhere = acme.post("/v1/chat/completions", json=body, headers={**headers, "X-Thread-Id": some_id()})

    assert answers[0]["id"] == answers[1]["id"]
    assert [kind for kind, _ in said(acme, thread_id)].count("human") == 1
    assert elsewhere.status_code == 409
    assert elsewhere.json()["error"]["code"] == "idempotency_key_reused"


@pytest.mark.parametrize(
    ("header", "metadata", "param"),
    [("mine", None, "X-Thread-Id"), (None, "mine", "metadata.thread_id"), (some_id(), some_id(), "metadata.thread_id")],
    ids=["header", "metadata", "both"],
)
def test_a_thread_that_cannot_be_named_is_refused(acme: httpx.Client, header: str | None, metadata: str | None, param: str) -> None:
    """In OpenAI's form, with the field that is to blame."""
    body: dict[str, Any] = {"model": GRAPH, "messages": [user(FIRST)]}
    if metadata is not None:
        body["metadata"] = {"thread_id": metadata}
    answer = acme.post("/v1/chat/completions", json=body, headers={"X-Thread-Id": header} if header else {})

    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, "unsupported_parameter")


def test_what_is_not_new_is_no_turn(acme: httpx.Client) -> None:
    """A conversation that ends with our own answer asks nothing."""
    thread_id = some_id()
    headers = {"X-Thread-Id": thread_id}
    acme.post("/v1/chat/completions", json={"model": GRAPH, "messages": [user(FIRST)]}, headers=headers).raise_for_status()
    body = {"model": GRAPH, "messages": [user(FIRST), {"role": "assistant", "content": "so it was"}]}
    answer = acme.post("/v1/chat/completions", json=body, headers=headers)

    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", 400, "invalid_input"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
    ],
)
def test_every_error_below_v1_is_in_openais_form(acme: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    """Also those of the framework."""
    answer = acme.request(method, path, json={} if method == "POST" else None)

    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == code


def test_developers_and_lists_of_text_are_understood(chat: openai.OpenAI) -> None:
    """A developer's instruction counts as a system's, and a list is the text of its parts; images have none."""
    listed: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": [{"type": "text", "text": FIRST}]},
    ]
    plain: Any = [SYSTEM, user(FIRST)]

    by_list = chat.chat.completions.create(model=GRAPH, messages=listed).choices[0].message.content
    by_text = chat.chat.completions.create(model=GRAPH, messages=plain).choices[0].message.content

    assert by_list == by_text
    image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}]}]
    with pytest.raises(openai.BadRequestError):
        chat.chat.completions.create(model=GRAPH, messages=image)
