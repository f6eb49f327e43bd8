"""Whatever is wrong with a request: a status, a stable code, a sentence, and nothing half written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.support.protocol import GRAPH, new_thread, says, some_id, stream
from tests.support.service import Service

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Case:
    """One bad request and how it is refused; `{thread}`, and `{owner}` with its `{run}`, exist, `{some}` is an id of nothing."""

    name: str
    method: str
    path: str
    status: int
    code: str
    body: Any = None
    content: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    says: str = ""

    def __str__(self) -> str:
        return self.name


RUN = "/threads/{thread}/runs/wait"


def run_case(name: str, status: int, code: str, says_so: str = "", path: str = RUN, **fields: Any) -> Case:
    body = {**says("hello"), **fields}
    return Case(name, "POST", path, status, code, {key: value for key, value in body.items() if value is not ...}, says=says_so)


def input_case(name: str, says_so: str, messages: Any, **more: Any) -> Case:
    return run_case(name, 422, "invalid_input", says_so, input={"messages": messages, **more})


USER = {"role": "user", "content": "hello"}
JSON = (("content-type", "application/json"),)
CASES = [
    Case("malformed JSON", "POST", RUN, 422, "malformed_json", content=b'{"assistant_id": ', headers=JSON),
    Case("an empty body", "POST", RUN, 422, "invalid_input", content=b"", headers=JSON),
    Case("no object", "POST", RUN, 422, "invalid_input", body=["supervisor"]),
    Case(
        "no JSON but a form",
        "POST",
        RUN,
        422,
        "invalid_input",
        content=b"assistant_id=supervisor",
        headers=(("content-type", "text/plain"),),
    ),
    Case("bytes that are no text", "POST", RUN, 422, "malformed_json", content=b'{"assistant_id": "\xff\xfe"}', headers=JSON),
    Case("JSON too deep", "POST", RUN, 422, "malformed_json", content=b"[" * 100_000 + b"]" * 100_000, headers=JSON),
    Case("half a surrogate pair", "POST", RUN, 422, "invalid_input", content=json.dumps(says("\ud800")).encode(), headers=JSON),
    Case(
        *("half a surrogate pair, to be sent once", "POST", RUN, 422, "invalid_input"),
        content=json.dumps(says("\ud800")).encode(),
        headers=(*JSON, ("idempotency-key", "half")),
    ),
    run_case("an unknown assistant by name", 422, "assistant_not_found", "supervisor", assistant_id="nobody"),
    run_case("an unknown assistant by id", 404, "assistant_not_found", assistant_id=some_id()),
    run_case("no assistant", 422, "invalid_input", "assistant_id", assistant_id=...),
    run_case("an assistant that is a number", 422, "invalid_input", "assistant_id", assistant_id=7),
    run_case("a stream mode that nobody knows", 422, "invalid_input", "stream_mode", stream_mode="everything"),
    run_case("a strategy that nobody knows", 422, "invalid_input", "multitask_strategy", multitask_strategy="wait"),
    run_case("a recursion limit of zero", 422, "invalid_input", "recursion_limit", config={"recursion_limit": 0}),
    run_case("metadata that are a list", 422, "invalid_input", "metadata", metadata=[1]),
    run_case("an input that is a text", 422, "invalid_input", "input", input="hello"),
    run_case("no input on a thread without a run", 422, "nothing_to_run", "input", input=None),
    run_case("no input without a thread", 422, "nothing_to_run", "input", path="/runs/wait", input=None),
    run_case("a thread that is nobody's", 404, "thread_not_found", path="/threads/{some}/runs/wait"),
    run_case("a checkpoint that is nobody's", 404, "checkpoint_not_found", checkpoint_id=some_id()),
    run_case("a checkpoint that is no id", 404, "checkpoint_not_found", checkpoint_id="../../etc"),
    run_case("a resume without a thread", 400, "resume_without_thread", path="/runs/wait", input=None, command={"resume": True}),
    run_case("a jump to a node that is not there", 422, "invalid_input", "nowhere", input=None, command={"goto": "nowhere"}),
    run_case("a change of what is not the caller's", 422, "invalid_input", "draft", input=None, command={"update": {"draft": 5}}),
    run_case("a change that is no message", 422, "invalid_input", "messages", input=None, command={"update": {"messages": 5}}),
    run_case("a command that says nothing", 422, "nothing_to_run", "input", input=None, command={"goto": []}),
    run_case("a stop at a node that is not there", 422, "invalid_input", "nowhere", interrupt_before=["nowhere"]),
    input_case("no messages", "messages", []),
    input_case("messages that are null", "messages", None),
    input_case("too many messages", "messages", [USER] * 101),
    input_case("a message without text", "no text", [{"role": "user", "content": "  "}]),
    input_case(
        "a message whose blocks have no text", "no text", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    ),
    input_case("a message without a role", "role", [{"content": "hello"}]),
    input_case("a message of an unknown role", "role", [{"role": "boss", "content": "hello"}]),
    input_case("no message of the user", "user", [{"role": "assistant", "content": "hello"}]),
    input_case("a tool message that answers no call", "messages.1", [USER, {"role": "tool", "content": "42"}]),
    input_case("a message of a megabyte", "characters", [{"role": "user", "content": "x" * 1_000_000}]),
    input_case("a tier that nobody has", "tier", [USER], customer={"tier": "gold"}),
    input_case("a locale that is none", "locale", [USER], customer={"locale": "español!"}),
    Case("a body that is too large", "POST", RUN, 413, "body_too_large", content=b" " * (MEBIBYTE + 1), headers=JSON),
    Case("a thread id that is no id", "GET", "/threads/7", 422, "invalid_input", says="thread_id"),
    Case("a run id that is no id", "GET", "/threads/{thread}/runs/7", 422, "invalid_input", says="run_id"),
    Case("a thread that was never made", "GET", "/threads/{some}", 404, "thread_not_found"),
    Case("the state of a thread that was never made", "GET", "/threads/{some}/state", 404, "thread_not_found"),
    Case("the history of a thread that was never made", "POST", "/threads/{some}/history", 404, "thread_not_found", body={}),
    Case("a history of nothing", "POST", "/threads/{thread}/history", 422, "invalid_input", body={"limit": 0}, says="limit"),
    Case("a history before a number", "POST", "/threads/{thread}/history", 422, "invalid_input", body={"before": 7}, says="before"),
    Case(
        "a history before a strange config", "POST", "/threads/{thread}/history", 422, "invalid_input", body={"before": {"configurable": 7}}
    ),
    Case("a run that was never made", "GET", "/threads/{thread}/runs/{some}", 404, "run_not_found"),
    Case("a run of another thread", "GET", "/threads/{some}/runs/{run}", 404, "run_not_found"),
    Case("the stream of a run that was never made", "GET", "/threads/{thread}/runs/{some}/stream", 404, "run_not_found"),
    Case(
        "an event id in words", "GET", "/threads/{owner}/runs/{run}/stream", 422, "invalid_event_id", headers=(("last-event-id", "first"),)
    ),
    Case(
        "an event id too large",
        "GET",
        "/threads/{owner}/runs/{run}/stream",
        422,
        "invalid_event_id",
        headers=(("last-event-id", "9" * 30),),
    ),
    Case(
        "a list of modes that is none",
        "GET",
        "/threads/{owner}/runs/{run}/stream?stream_mode=[values",
        422,
        "invalid_input",
        says="stream_mode",
    ),
    Case(
        "a list of modes that are no words",
        "GET",
        "/threads/{owner}/runs/{run}/stream?stream_mode=[7]",
        422,
        "invalid_input",
        says="stream_mode",
    ),
    Case("a thread id to be made that is no id", "POST", "/threads", 422, "invalid_input", body={"thread_id": "mine"}, says="thread_id"),
    Case("a thread to be made in an unknown way", "POST", "/threads", 422, "invalid_input", body={"if_exists": "merge"}, says="if_exists"),
    Case("a page of nothing", "POST", "/assistants/search", 422, "invalid_input", body={"limit": 0}, says="limit"),
    Case("a route that is not there", "GET", "/nothing/here", 404, "not_found"),
    Case("a method that is not there", "PUT", "/threads", 405, "method_not_allowed"),
]


@pytest.fixture(scope="module")
def known(offline_service: Service) -> dict[str, str]:
    """A thread without a run, another with one, and an id of nothing."""
    with httpx.Client(base_url=offline_service.url, timeout=60) as http:
        busy = new_thread(http)
        response, _ = stream(http, f"/threads/{busy}/runs/stream", says("hello"))
        idle = new_thread(http)
        # A search has what happened before it in the index; nothing of it is then written later.
        assert http.post("/threads/count", json={"status": "busy"}).json() == 0
        return {
            "thread": idle,
            "owner": busy,
            "run": response.headers["content-location"].rpartition("/")[2],
            "some": some_id(),
        }


@pytest.fixture
def everything(offline_service: Service) -> Iterator[Callable[[], set[bytes]]]:
    """What is in Redis: the names of all keys."""
    with Redis.from_url(offline_service.redis_url) as redis:
        yield lambda: set(redis.scan_iter(count=1000))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_bad_request_is_refused_in_words_and_leaves_nothing(
    case: Case, http: httpx.Client, known: dict[str, str], everything: Callable[[], set[bytes]]
) -> None:
    """A problem with status, code and a sentence that names the place; afterwards Redis holds the keys that it held before."""
    before = everything()

    response = http.request(case.method, case.path.format(**known), json=case.body, content=case.content, headers=dict(case.headers))

    assert response.status_code == case.status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.keys() == {"type", "title", "status", "code", "detail", "request_id"}
    assert (problem["status"], problem["code"]) == (case.status, case.code)
    assert isinstance(problem["detail"], str)
    assert case.says in problem["detail"]
    assert len(problem["detail"]) < 1000
    assert problem["request_id"] == response.headers["x-request-id"]
    assert everything() == before


def test_a_body_that_grows_too_large_is_refused_without_its_length(http: httpx.Client, everything: Callable[[], set[bytes]]) -> None:
    """A chunked body says nothing beforehand: it is refused as soon as it is too large."""
    before, sent = everything(), 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        while sent < 4 * MEBIBYTE:
            yield b" " * 65536
            sent += 65536

    response = http.post("/runs/wait", content=body(), headers=dict(JSON))

    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "body_too_large"
    assert everything() == before


def test_a_run_that_changes_nothing_of_the_thread_leaves_it_usable(http: httpx.Client, known: dict[str, str]) -> None:
    """After every refusal above the thread still takes a good run."""
    assert http.get(f"/threads/{known['thread']}").json()["status"] == "idle"
    assert http.post(f"/threads/{known['thread']}/runs/wait", json=says("hello")).json()["answer"]


def test_the_log_says_nothing_of_a_crash(offline_service: Service) -> None:
    """No request above was a surprise."""
    text = offline_service.log_text()

    assert "request_failed" not in text
    assert "internal_error" not in text
    assert "Traceback" not in text


CHAT = {"model": GRAPH, "messages": [USER]}
OPENAI_CASES = [
    ("malformed JSON", {"content": b"{", "headers": dict(JSON)}, 400, "malformed_json", None),
    ("no messages", {"json": {**CHAT, "messages": []}}, 400, "invalid_input", "messages"),
    ("no model", {"json": {"messages": [USER]}}, 400, "invalid_input", "model"),
    ("an unknown model", {"json": {**CHAT, "model": "gpt-x"}}, 404, "model_not_found", None),
    ("an unknown role", {"json": {**CHAT, "messages": [{"role": "boss", "content": "x"}]}}, 400, "invalid_input", "messages"),
    ("no message of the user", {"json": {**CHAT, "messages": [{"role": "system", "content": "x"}]}}, 400, "invalid_input", None),
    ("two answers", {"json": {**CHAT, "n": 2}}, 400, "unsupported_parameter", "n"),
    ("a body that is too large", {"content": b" " * (MEBIBYTE + 1), "headers": dict(JSON)}, 413, "body_too_large", None),
]


@pytest.mark.parametrize(("_name", "request_", "status", "code", "param"), OPENAI_CASES, ids=[case[0] for case in OPENAI_CASES])
def test_an_openai_client_is_refused_in_its_own_form(
    http: httpx.Client,
    everything: Callable[[], set[bytes]],
    _name: str,
    request_: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
) -> None:
    """`error` with message, type, param and code."""
    before = everything()

    response = http.post("/v1/chat/completions", **request_)

    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert param is None or (error["param"] or "").startswith(param)
    assert isinstance(error["message"], str)
    assert everything() == before


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("PUT", "/v1/models", 405), ("GET", "/v1/models/x", 404)]
)
def test_what_is_not_there_is_told_in_the_same_form(http: httpx.Client, method: str, path: str, status: int) -> None:
    """The framework's own refusals too."""
    response = http.request(method, path)

    assert response.status_code == status
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_messages_of_tools_and_images_do_not_stop_a_chat(http: httpx.Client) -> None:
    """A client with tools of its own sends their calls and results; they are not ours to read."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What does a transfer cost?"}, {"type": "image_url", "image_url": {"url": "data:,"}}],
        },
    ]

    response = http.post("/v1/chat/completions", json={**CHAT, "messages": messages})

    assert response.status_code == 200, response.text
    assert re.search("transfer", response.json()["choices"][0]["message"]["content"], re.IGNORECASE)
