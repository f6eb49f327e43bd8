"""Whatever the document allows, and what it does not: every answer is one that the document has.

Each operation is asked with made-up requests, good and bad. Deterministic and small by default; `CHAOS=full` asks much more, from a new
seed that it prints (`OPENAPI_SEED=…` takes one up again).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID
from zlib import crc32

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, seed, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from sdk.document import DOCUMENT
from tests.support.fleet import Fleet
from tests.support.protocol import GRAPH, brisk, new_thread, says

IS_FULL = os.environ.get("CHAOS") == "full"
SEED = int(os.environ.get("OPENAPI_SEED", random.SystemRandom().randrange(2**32) if IS_FULL else 20261127))
KEY, ADMIN = "key-of-acme", "token-of-the-operators"
SETTINGS = {"API_KEYS": f"{KEY}:acme", "ADMIN_TOKEN": ADMIN, "RATE_LIMIT_RPM": "0", "BROWSER_TOKEN_SECRET": "s" * 32}
DEADLINE_MS = 400
"""Milliseconds: long enough for a run of the brisk graph, short enough for one that waits for something."""
AT_LEISURE = {"x-deadline-ms": "60000"}
"""Of runs that must come to their end, on a machine however slow."""
PATIENCE = 20.0
"""Seconds without a byte after which an answer is taken for hanging."""
UNENDING = {
    "join_thread_stream": "test_a_threads_stream_says_what_the_document_says",
    "stream_thread_events": "test_protocol_v2_says_what_the_document_says",
}
"""Operations whose answer ends only with its reader, and the test that reads them by hand."""
SAID = [
    ("brisk", "a b"),
    ("brisk", "team please"),
    ("brisk", "refund order 7"),
    ("brisk", "boom"),
    ("supervisor", "What about my invoices?"),
]
"""Assistant and what it is told: runs that answer, use a subgraph, ask, fail, and call a tool."""
UNDOCUMENTED_FIELDS = {
    "content-type",
    "content-length",
    "transfer-encoding",
    "date",
    "vary",
    "cache-control",
    "x-accel-buffering",
    "connection",
}
"""Header fields that HTTP itself explains."""
CHECKS: list[Any] = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]


def _read() -> dict[str, Any]:
    """The document; of a stream only what is on the wire (`itemSchema`): `schema` beside it is for generators, see ADR-0038."""
    document: dict[str, Any] = json.loads(DOCUMENT.read_text("utf-8"))
    for operations in document["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                for content in answer.get("content", {}).values():
                    if "itemSchema" in content:
                        del content["schema"]
    return document


DOCUMENTED = _read()
STREAM_EVENT, THREAD_STREAM_EVENT, PROTOCOL_EVENT = (
    jsonschema_rs.Draft202012Validator({**DOCUMENTED["components"]["schemas"][name], "components": DOCUMENTED["components"]})
    for name in ("StreamEvent", "ThreadStreamEvent", "ProtocolEvent")
)
schema = schemathesis.openapi.from_dict(DOCUMENTED, config=schemathesis.Config(seed=SEED))
schema.config.phases.coverage.enabled = IS_FULL
schema.config.generation.update(allow_x00=False)


@dataclass(slots=True)
class Api:
    """The service, and things in it that made-up requests may be led to."""

    url: str
    http: httpx.Client
    ids: dict[str, str] = field(default_factory=dict)

    def lead(self, case: Any) -> None:
        """Every other request to something that is there, and every run to a short deadline."""
        which = crc32(repr((case.path_parameters, case.query, case.body)).encode())  # the same request is always led the same way
        if which % 2:
            if not self.ids or case.method == "DELETE":
                self.ids = self._something()
            for key, value in (case.path_parameters or {}).items():
                if key in self.ids and _is_id(value):
                    case.path_parameters[key] = self.ids[key]
            if isinstance(case.body, dict) and isinstance(case.body.get("assistant_id"), str):
                case.body["assistant_id"] = "brisk"
        if isinstance(case.body, dict) and "input" in case.body and which % 4 == 1:
            case.body["input"] = {"messages": [{"role": "user", "content": "hello"}]}

    def _something(self) -> dict[str, str]:
        """A thread with a run that has ended, and with states; new ones each time."""
        thread_id = self.http.post("/threads", json={}).raise_for_status().json()["thread_id"]
        body = {"assistant_id": "brisk", "input": {"messages": [{"role": "user", "content": "hello"}]}, "stream_resumable": True}
        run = self.http.post(f"/threads/{thread_id}/runs/wait", json=body).raise_for_status()
        checkpoint_id = self.http.get(f"/threads/{thread_id}/state").json()["checkpoint_id"]
        return {"thread_id": thread_id, "run_id": run.headers["content-location"].rpartition("/")[2], "checkpoint_id": checkpoint_id}


def _input(assistant_id: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = (says(text, id="C-1001") if assistant_id == GRAPH else brisk(text))["input"]
    return found


def _is_id(value: Any) -> bool:
    try:
        return bool(UUID(str(value)))
    except ValueError:
        return False


def _events(text: str) -> Iterator[dict[str, Any]]:
    """The events of a stream as clients see them: the parts of the name apart, the data read."""
    for frame in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in frame.splitlines() if not line.startswith(":"))
        if "event" in fields:
            name, *namespace = fields["event"].split("|")
            yield {"event": name, "namespace": namespace, "id": fields["id"], "data": json.loads(fields["data"])}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    fleet = Fleet(tmp_path_factory.mktemp("properties"), None, **SETTINGS)
    try:
        url = fleet.gateway(EXECUTION="local", step=0.01).url
        with httpx.Client(base_url=url, headers={"x-api-key": KEY}, timeout=30) as http:
            print(f"OPENAPI_SEED={SEED}")  # noqa: T201  shown with a failure
            yield Api(url, http)
    finally:
        fleet.close()


@schema.parametrize()
@seed(SEED)
@settings(
    max_examples=50 if IS_FULL else 12,
    deadline=None,
    database=None,
    suppress_health_check=[*HealthCheck],
)
def test_an_operation_says_only_what_the_document_says(case: Any, api: Api) -> None:
    """No 5xx, and no status, content type, body, header field or code that the document does not have."""
    if case.operation.definition.raw["operationId"] in UNENDING:
        return
    api.lead(case)
    headers = {"x-api-key": KEY, "x-admin-token": ADMIN, "x-deadline-ms": str(DEADLINE_MS)}
    response = case.call(base_url=api.url, headers=headers, timeout=PATIENCE)

    case.validate_response(response, checks=CHECKS)
    answer = case.operation.responses.find_by_status_code(response.status_code)
    if answer is None:
        return  # a method that the path does not have: 405, or the answer of a path that looks like it
    known = {name.lower() for name, _ in answer.headers.items()} | UNDOCUMENTED_FIELDS
    assert {name.lower() for name in response.headers} - known == set()
    if response.headers.get("content-type", [""])[0].startswith("text/event-stream") and not case.operation.path.startswith("/v1/"):
        for event in _events(response.content.decode()):
            assert [error.message for error in STREAM_EVENT.iter_errors(event)] == [], event
    if response.status_code >= 400:
        (content,) = answer.definition["content"].values()
        body = response.json()
        if "examples" in content:  # a protocol's own form has its codes in its schema
            assert body.get("error", body)["code"] in content["examples"], body


def test_the_service_serves_the_committed_document(api: Api) -> None:
    """With the operators' routes, which the document has and this service too."""
    assert httpx.get(f"{api.url}/openapi.json", timeout=30).json() == json.loads(DOCUMENT.read_text("utf-8"))


def test_every_kind_of_event_is_what_the_document_says(api: Api) -> None:
    """In every mode, of subgraphs too, of a run that answers, asks, or fails; and there is no kind that never comes."""
    modes = DOCUMENTED["components"]["schemas"]["RunCreate"]["properties"]["stream_mode"]["items"]["enum"]
    seen: set[str] = set()
    with httpx.Client(base_url=api.url, headers={"x-api-key": KEY}, timeout=60) as http:
        for assistant_id, text in SAID:
            given = _input(assistant_id, text)
            body = {"assistant_id": assistant_id, "input": given, "stream_mode": modes, "stream_subgraphs": True}
            for event in _events(http.post(f"/threads/{new_thread(http)}/runs/stream", json=body).raise_for_status().text):
                assert [error.message for error in STREAM_EVENT.iter_errors(event)] == [], event
                seen.add(event["event"])

    assert seen == documented("StreamEvent")


def documented(union: str) -> set[str]:
    return {*DOCUMENTED["components"]["schemas"][union]["discriminator"]["mapping"]}


@pytest.fixture(scope="module")
def thread_id(api: Api) -> str:
    """A thread with the runs of `SAID`, and a state that was written by hand; the tests before may have isolated a specialist."""
    operator = {"x-admin-token": ADMIN}
    for breaker in api.http.get("/admin/breakers", headers=operator).raise_for_status().json():
        if breaker["state"] != "closed":
            move = {"dependency": breaker["dependency"], "state": "closed"}
            api.http.post("/admin/breakers", json=move, headers=operator).raise_for_status()
    found = new_thread(api.http)
    for assistant_id, text in SAID:
        given = _input(assistant_id, text)
        params = {"assistant_id": assistant_id, "input": given}
        command = {"id": 1, "method": "run.start", "params": params}
        started = api.http.post(f"/threads/{found}/commands", json=command, headers=AT_LEISURE).raise_for_status().json()
        api.http.get(f"/threads/{found}/runs/{started['result']['run_id']}/join").raise_for_status()
    written = {"values": {"messages": [{"role": "user", "content": "by hand"}]}}
    api.http.post(f"/threads/{found}/state", json=written).raise_for_status()
    return found


def _frames(response: httpx.Response) -> Iterator[str]:
    """The frames of a stream that has no end, heartbeats too."""
    rest = ""
    for part in response.iter_text():
        *whole, rest = (rest + part).split("\n\n")
        yield from whole


def test_a_threads_stream_says_what_the_document_says(api: Api, thread_id: str) -> None:
    """The events of all its runs, up to a state that is written by hand at last."""
    seen: set[str] = set()
    query = {"stream_mode": ["run_modes", "state_update"]}
    with api.http.stream("GET", f"/threads/{thread_id}/stream", params=query, headers={"last-event-id": "-1"}) as response:
        for event in (event for frame in _frames(response) for event in _events(frame)):
            assert [error.message for error in THREAD_STREAM_EVENT.iter_errors(event)] == [], event
            seen.add(event["event"])
            if event["event"] == "state_update":
                break

    assert seen >= {"metadata", "state_update", "values", "updates", "messages", "custom", "tasks", "checkpoints", "error"}
    assert "end" not in seen


def test_protocol_v2_says_what_the_document_says(api: Api, thread_id: str) -> None:
    """In every channel, of all runs, and there is no kind of event that never comes."""
    channels = ["values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"]
    seen: set[str] = set()
    ended, given_up = 0, time.monotonic() + 2 * PATIENCE
    with api.http.stream("POST", f"/threads/{thread_id}/stream/events", json={"channels": channels}) as response:
        for frame in _frames(response):
            fields = dict(line.split(": ", 1) for line in frame.splitlines() if not line.startswith(":"))
            assert time.monotonic() < given_up, f"never seen: {documented('ProtocolEvent') - seen}"
            if not fields:
                continue
            event = json.loads(fields["data"])
            assert [error.message for error in PROTOCOL_EVENT.iter_errors(event)] == [], event
            assert (fields["event"], fields["id"]) == (event["method"], str(event["seq"]))
            seen.add(event["method"])
            data, namespace = event["params"]["data"], event["params"]["namespace"]
            ended += event["method"] == "lifecycle" and not namespace and data["event"] != "running"
            if ended >= len(SAID) and event["method"] == "lifecycle" and seen >= documented("ProtocolEvent"):
                break

    assert seen == documented("ProtocolEvent")
