"""The clients that `make sdk` makes of the OpenAPI document, against the live service."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest

from sdk import build
from tests.support.cut_proxy import CutProxy
from tests.support.fleet import Fleet, Member

KEY = "key-of-acme"
HERE = Path(__file__).parent
PAGE = (build.HERE.parent / "docs" / "clients" / "generated-sdks.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"```(python|typescript)\n(.*?)```", PAGE, re.DOTALL))
ODD = "a b\u2028 \x85 c\r ñ 🐙"
"""Text with what some call the end of a line, and with signs of more than one byte."""
SLOW = {"messages": [{"role": "user", "content": "slow please"}]}
REFUND = {"messages": [{"role": "user", "content": "refund order 7"}]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    fleet = Fleet(tmp_path_factory.mktemp("sdks"), None, API_KEYS=f"{KEY}:acme", RATE_LIMIT_RPM="0")
    try:
        yield fleet.gateway(EXECUTION="local")
    finally:
        fleet.close()


# --- Python


class Python:
    """The generated package; `Python.run_create` is `capataz_client.api.runs.create_run` and so on."""

    def __init__(self, folder: Path) -> None:
        self.path = str(build.python(folder))
        sys.path.insert(0, self.path)
        self.package = importlib.import_module(build.PACKAGE)
        self.models = importlib.import_module(f"{build.PACKAGE}.models")
        self.streams = importlib.import_module(f"{build.PACKAGE}.streams")

    def call(self, tag: str, operation: str) -> ModuleType:
        return importlib.import_module(f"{build.PACKAGE}.api.{tag}.{operation}")

    def body(self, **fields: Any) -> Any:
        return self.models.RunCreate.from_dict({"assistant_id": "brisk", **fields})


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Python:
    return Python(tmp_path_factory.mktemp("python-sdk"))


@pytest.fixture
def client(python: Python, service: Member) -> Iterator[Any]:
    with python.package.AuthenticatedClient(base_url=service.url, token=KEY) as found:
        yield found


@pytest.fixture
def thread_id(python: Python, client: Any) -> UUID:
    thread = python.call("threads", "create_thread").sync(client=client, body=python.models.ThreadCreate())
    assert isinstance(thread, python.models.Thread)
    found: UUID = thread.thread_id
    return found


def test_python_creates_a_run_once_for_one_key(python: Python, client: Any, thread_id: UUID) -> None:
    """What the service answers has a class, and the same `Idempotency-Key` is the same run."""
    create, key = python.call("runs", "create_run").sync, str(uuid4())

    first = create(thread_id, client=client, body=python.body(input=SLOW), idempotency_key=key)
    again = create(thread_id, client=client, body=python.body(input=SLOW), idempotency_key=key)

    assert isinstance(first, python.models.Run)
    assert first.run_id == again.run_id
    values = python.call("runs", "join_run").sync(thread_id, first.run_id, client=client)
    assert isinstance(values, python.models.RunValues)
    assert values["messages"][-1]["content"] == "slow please"


def test_python_streams_typed_events(python: Python, client: Any, thread_id: UUID) -> None:
    """Each event is of its own class, which knows what it carries; a subgraph's has a namespace."""
    body = python.body(input={"messages": [{"role": "user", "content": ODD}]}, stream_mode=["messages-tuple", "custom", "values"])
    body.stream_subgraphs = True

    events = list(python.call("runs", "stream_run").stream(thread_id, client=client, body=body))

    models = python.models
    assert isinstance(events[0], models.MetadataStreamEvent)
    assert events[0].data.attempt == 1
    pieces = [event.data for event in events if isinstance(event, models.MessagesStreamEvent)]
    assert "".join(message.content for message, _ in pieces if message.type_ == "AIMessageChunk") == ODD
    assert {metadata.langgraph_node for _, metadata in pieces if isinstance(metadata, models.MessageMetadata)} == {"echo"}
    (custom,) = [event for event in events if isinstance(event, models.CustomStreamEvent)]
    assert custom.data == {"looked_up": ODD}
    assert custom.namespace[0].startswith("look_up:")
    assert isinstance(events[-1], models.EndStreamEvent)
    assert (events[-1].data.status, events[-1].data.run_id) == ("success", events[0].data.run_id)


def test_python_goes_on_after_a_cut(python: Python, service: Member, thread_id: UUID) -> None:
    """The events of a stream that was cut twice are those of the unbroken one, and the run was created once."""
    with CutProxy(service.url, cuts=[3, 5]) as proxy, python.package.AuthenticatedClient(base_url=proxy.url, token=KEY) as client:
        body = python.body(input=SLOW, stream_mode=["custom", "values"], stream_resumable=True)
        events = list(python.call("runs", "stream_run").stream(thread_id, client=client, body=body))
        run_id = events[0].data.run_id
        whole = list(python.call("runs", "join_run_stream").stream(thread_id, run_id, client=client, last_event_id="-1"))

    assert events == whole
    assert [event.data["step"] for event in events if event.event == "custom" and "step" in event.data] == list(range(1, 25))
    sent = [line.split()[0] for line, _ in proxy.requests]
    assert sent == ["POST", "GET", "GET", "GET"]
    assert UUID(proxy.requests[0][1]["idempotency-key"])
    assert [fields["last-event-id"] for _, fields in proxy.requests[1:3]] == [events[2].id, events[7].id]


async def test_python_does_the_same_for_asyncio(python: Python, service: Member, thread_id: UUID) -> None:
    """Cut once, and whole."""
    with CutProxy(service.url, cuts=[4]) as proxy:
        async with python.package.AuthenticatedClient(base_url=proxy.url, token=KEY) as client:
            body = python.body(input=SLOW, stream_mode=["custom"], stream_resumable=True)
            events = [event async for event in python.call("runs", "stream_run").astream(thread_id, client=client, body=body)]

    assert [event.data["step"] for event in events if event.event == "custom" and "step" in event.data] == list(range(1, 25))
    assert len(proxy.requests) == 2


def test_python_cancels(python: Python, client: Any, thread_id: UUID) -> None:
    """The reader of the run is told of its end, and the run is not a success."""
    stream = python.call("runs", "stream_run").stream(thread_id, client=client, body=python.body(input=SLOW, stream_mode=["custom"]))
    run_id = next(stream).data.run_id

    answer = python.call("runs", "cancel_run").sync_detailed(thread_id, run_id, client=client, wait=True)

    assert answer.status_code == 200
    assert [*stream][-1].data.status == "interrupted"
    run = python.call("runs", "get_run").sync(thread_id, run_id, client=client)
    assert (run.status, run.ended_by) == ("interrupted", "user")


def test_python_has_typed_errors(python: Python, client: Any, thread_id: UUID) -> None:
    """A problem with its code, as an answer and as what a stream raises; a run that fails says why in its last event."""
    problem = python.call("threads", "get_thread").sync(uuid4(), client=client)
    assert isinstance(problem, python.models.Problem)
    assert (problem.status, problem.code) == (404, "thread_not_found")

    stream = python.call("runs", "stream_run").stream
    with pytest.raises(python.streams.Refused, match="there is no assistant") as refused:
        next(stream(thread_id, client=client, body=python.models.RunCreate(assistant_id="nobody")))
    assert (refused.value.status_code, refused.value.problem.code) == (422, "assistant_not_found")

    *_, last = stream(thread_id, client=client, body=python.body(input={"messages": [{"role": "user", "content": "boom"}]}))
    assert isinstance(last, python.models.ErrorStreamEvent)
    assert last.data.code == "internal_error"


def test_python_answers_an_interrupt(python: Python, client: Any, thread_id: UUID) -> None:
    """What the run asks has a class, and the answer goes to it by its id."""
    wait = python.call("runs", "wait_for_run").sync

    asked = wait(thread_id, client=client, body=python.body(input=REFUND))
    (question,) = asked.field_interrupt
    answered = wait(thread_id, client=client, body=python.body(command={"resume": {question.id: "yes"}}))

    assert isinstance(question, python.models.Interrupt)
    assert question.value["question"] == "Refund order 7?"
    assert answered["messages"][-1]["content"] == "order 7: yes"


def test_python_follows_a_thread(python: Python, service: Member, thread_id: UUID) -> None:
    """All its runs, one of which fails, over a cut, until the thread is deleted."""
    with python.package.AuthenticatedClient(base_url=service.url, token=KEY) as client:
        for text in ("boom", "hello"):
            body = python.body(input={"messages": [{"role": "user", "content": text}]}, stream_mode=["custom"])
            list(python.call("runs", "stream_run").stream(thread_id, client=client, body=body))
        with CutProxy(service.url, cuts=[3]) as proxy, python.package.AuthenticatedClient(base_url=proxy.url, token=KEY) as cut:
            events = []
            for event in python.call("runs", "join_thread_stream").stream(thread_id, client=cut, last_event_id="-1"):
                events.append(event)
                if len([done for done in events if done.to_dict()["data"].get("status") == "run_done"]) == 2:
                    python.call("threads", "delete_thread").sync_detailed(thread_id, client=client)
            sent = [line.split()[0] for line, _ in proxy.requests]

    assert sent == ["GET", "GET"]
    assert [event.event for event in events if event.event != "custom"] == ["metadata", "error", "metadata", "metadata", "metadata"]
    ids = [int(event.id) for event in events]
    assert ids == sorted({*ids})
    assert isinstance(events[0].data, python.models.Attempt)
    assert isinstance(events[-1].data, python.models.RunDone)


def test_python_speaks_protocol_v2(python: Python, service: Member, thread_id: UUID) -> None:
    """A command has an answer, and the stream of events goes on after a cut where it was."""
    models = python.models
    params = {"assistant_id": "brisk", "input": SLOW}
    command = models.ThreadCommand.from_dict({"id": 1, "method": "run.start", "params": params})
    wanted = models.EventsWanted(channels=["lifecycle", "custom"])
    with CutProxy(service.url, cuts=[3]) as proxy, python.package.AuthenticatedClient(base_url=proxy.url, token=KEY) as client:
        done = python.call("protocol", "send_thread_command").sync(thread_id, client=client, body=command)
        events = []
        for event in python.call("protocol", "stream_thread_events").stream(thread_id, client=client, body=wanted):
            events.append(event)
            if event.method == "lifecycle" and not event.params.namespace and event.params.data.event != "running":
                break
        sent = [line.split()[1].rpartition("/")[2] for line, _ in proxy.requests]

    assert isinstance(done, models.CommandDone)
    assert sent == ["commands", "events", "events"]
    assert {type(event) for event in events} == {models.ProtocolLifecycle, models.ProtocolCustom}
    steps = [event.params.data.payload for event in events if isinstance(event, models.ProtocolCustom)]
    assert [step["step"] for step in steps if "step" in step] == list(range(1, 25))
    assert len({event.seq for event in events}) == len(events)


def test_the_python_example_does_what_the_page_says(python: Python, service: Member) -> None:
    """Word for word, but for address and key."""
    code = EXAMPLES["python"].replace("http://localhost:8000", service.url).replace("your-api-key", KEY)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": python.path, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    says_what_the_page_promises(done.stdout)
    assert "asked: open_refund_request" in done.stdout


def says_what_the_page_promises(text: str) -> None:
    """A streamed answer, an approved refund, a problem."""
    assert "transfer" in text
    assert "\nended: success\n" in text
    assert "AZ-10234" in text
    assert text.endswith("404 thread_not_found\n")


# --- TypeScript


@pytest.fixture(scope="module")
def typescript(service: Member, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program in sdk_conversation.ts saw: it is type-checked against the client, then run once."""
    folder = tmp_path_factory.mktemp("typescript")
    client, project = build.typescript(folder / "client"), folder / "project"
    (project / "node_modules").mkdir(parents=True)
    (project / "src").mkdir()
    (project / "node_modules" / "capataz-client").symlink_to(client)
    (project / "node_modules" / "@types").symlink_to(build.node_tools() / "node_modules" / "@types")
    (project / "package.json").write_text('{"type": "module"}')
    shutil.copy(HERE / "sdk_conversation.ts", project / "src")
    page = EXAMPLES["typescript"].replace("http://localhost:8000", service.url).replace("your-api-key", KEY)
    (project / "src" / "page.ts").write_text(page, "utf-8")
    options = json.loads((build.HERE / "typescript" / "tsconfig.json").read_text("utf-8"))
    options["compilerOptions"]["types"] = ["node"]
    (project / "tsconfig.json").write_text(json.dumps(options))
    build.type_check(project)
    with CutProxy(service.url, cuts=[3, 5, 10_000, 3]) as proxy:
        environment = {"PATH": os.environ["PATH"], "BASE_URL": service.url, "CUT_URL": proxy.url, "API_KEY": KEY}
        said = run_node(project, "dist/sdk_conversation.js", environment)
    return {**json.loads(said), "requests": proxy.requests, "page": run_node(project, "dist/page.js", environment)}


def run_node(project: Path, program: str, environment: dict[str, str]) -> str:
    done = subprocess.run(["node", program], cwd=project, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_node = pytest.mark.needs("nodejs", program="node")
needs_npm = pytest.mark.needs("npm")


@needs_node
@needs_npm
def test_typescript_creates_a_run_once_for_one_key(typescript: dict[str, Any]) -> None:
    """The same `Idempotency-Key` is the same run."""
    first, again = typescript["created"]
    assert UUID(first)
    assert first == again


@needs_node
@needs_npm
def test_typescript_streams_typed_events(typescript: dict[str, Any]) -> None:
    """The compiler tells them apart by `event`; a subgraph's has a namespace."""
    found = typescript["streamed"]
    assert found["attempt"] == 1
    assert found["text"] == ODD
    assert found["lookedUp"] == {"looked_up": ODD}
    assert found["namespace"].startswith("look_up:")
    assert found["status"] == "success"


@needs_node
@needs_npm
def test_typescript_goes_on_after_a_cut(typescript: dict[str, Any]) -> None:
    """The events of a stream that was cut twice are those of the unbroken one, and the run was created once."""
    assert typescript["cut"] == typescript["whole"]
    assert [event["data"]["step"] for event in typescript["cut"] if "step" in event["data"]] == list(range(1, 25))
    sent = [line.split()[0] for line, _ in typescript["requests"]]
    assert sent[:3] == ["POST", "GET", "GET"]
    assert UUID(typescript["requests"][0][1]["idempotency-key"])
    assert [fields["last-event-id"] for _, fields in typescript["requests"][1:3]] == [typescript["cut"][i]["id"] for i in (2, 7)]


@needs_node
@needs_npm
def test_typescript_follows_a_thread_and_protocol_v2(typescript: dict[str, Any]) -> None:
    """Typed, past a run that fails; what cut protocol v2 loses and doubles nothing."""
    assert typescript["thread"] == ["metadata", "error", "metadata", "metadata", "metadata"]
    assert typescript["command"] == "success"
    assert typescript["protocol"] == {"steps": list(range(1, 25)), "last": "completed"}


@needs_node
@needs_npm
def test_typescript_cancels(typescript: dict[str, Any]) -> None:
    """The reader of the run is told of its end."""
    assert typescript["cancelled"] == ["interrupted", "interrupted", "user"]


@needs_node
@needs_npm
def test_typescript_has_typed_errors(typescript: dict[str, Any]) -> None:
    """A problem with its code, as an answer and as what a stream throws; a run that fails says why in its last event."""
    assert typescript["problem"] == [404, "thread_not_found"]
    assert typescript["refused"] == [422, "assistant_not_found"]
    assert typescript["failed"] == "internal_error"


@needs_node
@needs_npm
def test_typescript_answers_an_interrupt(typescript: dict[str, Any]) -> None:
    """What the run asks is typed, and the answer goes to it by its id."""
    assert typescript["asked"] == {"action": "refund", "order": 7, "question": "Refund order 7?"}
    assert typescript["answered"] == "order 7: yes"


@needs_node
@needs_npm
def test_the_typescript_example_does_what_the_page_says(typescript: dict[str, Any]) -> None:
    """Word for word, but for address and key; it is type-checked too."""
    says_what_the_page_promises(typescript["page"])
