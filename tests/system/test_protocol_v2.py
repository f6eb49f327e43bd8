"""Protocol v2 over HTTP: commands to a thread, and one stream of its events over all runs, the same on every connection."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from uuid import UUID

import httpx
import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command
from langgraph_sdk import get_client, get_sync_client

from tests.support.engine_process import ASKING, BRISK, STICKY
from tests.support.fleet import Fleet, Member
from tests.support.protocol import brisk, follow, new_thread, says, some_id
from tests.support.service import Service

CHANNELS = ["values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"]
OVER = {"completed", "failed", "interrupted"}
QUESTION = "refund order 7"


def given(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def command(http: httpx.Client, thread_id: str, method: str, **params: Any) -> dict[str, Any]:
    answer: dict[str, Any] = (
        http.post(f"/threads/{thread_id}/commands", json={"id": 7, "method": method, "params": params}).raise_for_status().json()
    )
    assert answer["id"] == 7
    return answer


def start(http: httpx.Client, thread_id: str, text: str, **params: Any) -> str:
    answer = command(http, thread_id, "run.start", **{"assistant_id": BRISK, "input": given(text), **params})
    assert answer["type"] == "success", answer
    run_id: str = answer["result"]["run_id"]
    return run_id


@contextmanager
def following(http: httpx.Client, thread_id: str, channels: list[str] | None = None, **wishes: Any) -> Iterator[Iterator[str]]:
    """A thread's stream, open, as frames without heartbeats. It has no end of its own; a test that waits for nothing fails."""
    body = {"channels": channels or CHANNELS, **wishes}
    with http.stream("POST", f"/threads/{thread_id}/stream/events", json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield _frames(response)


def _frames(response: httpx.Response) -> Iterator[str]:
    rest, beats = "", 0
    for part in response.iter_text():
        *whole, rest = (rest + part).split("\n\n")
        for frame in whole:
            beats = beats + 1 if frame.startswith(":") else 0
            assert beats < 5, "nothing has come for 25 s"
            if not beats:
                yield frame


def frames(http: httpx.Client, thread_id: str, channels: list[str] | None = None, **wishes: Any) -> Iterator[str]:
    with following(http, thread_id, channels, **wishes) as found:
        yield from found


def event(frame: str) -> dict[str, Any]:
    fields = dict(line.split(": ", 1) for line in frame.splitlines())
    found: dict[str, Any] = json.loads(fields["data"])
    assert (fields["event"], int(fields["id"])) == (found["method"], found["seq"])
    return found


def phase(found: dict[str, Any]) -> str:
    """What a root lifecycle event says; empty: it is another event."""
    is_root = found["method"] == "lifecycle" and found["params"]["namespace"] == []
    return str(found["params"]["data"]["event"]) if is_root else ""


def until_over(http: httpx.Client, thread_id: str, runs: int = 1, **wishes: Any) -> list[str]:
    """All frames up to the end of the n-th run."""
    came: list[str] = []
    for frame in frames(http, thread_id, **wishes):
        came.append(frame)
        runs -= phase(event(frame)) in OVER
        if runs == 0:
            return came
    raise AssertionError("the stream ended")


def told(came: list[str], method: str, namespace: list[str] | None = None) -> list[Any]:
    found = [event(frame) for frame in came]
    return [e["params"]["data"] for e in found if e["method"] == method and namespace in (None, e["params"]["namespace"])]


@pytest.fixture
def conversation(one: httpx.Client) -> str:
    """A thread with four runs: one with a subgraph that speaks, one that asks, its answer, and one that fails."""
    thread_id = some_id()
    start(one, thread_id, "team please")
    until_over(one, thread_id)
    start(one, thread_id, QUESTION)
    asked = told(until_over(one, thread_id, 2), "input.requested")
    command(one, thread_id, "input.respond", interrupt_id=asked[0]["interrupt_id"], namespace=[], response="yes")
    until_over(one, thread_id, 3)
    start(one, thread_id, "boom")
    return thread_id


# --- the same for everybody


def test_a_stream_resumed_after_any_event_is_the_unbroken_one(conversation: str, one: httpx.Client, other: httpx.Client) -> None:
    """Byte for byte and number for number, from the process that executed the runs and from one that did not."""
    whole = until_over(one, conversation, 4)

    seqs = [event(frame)["seq"] for frame in whole]
    assert seqs == sorted(set(seqs))
    assert len({event(frame)["event_id"] for frame in whole}) == len(whole)
    assert until_over(other, conversation, 4) == whole
    for i, seq in enumerate(seqs[:-1]):
        rest = frames((one, other)[i % 2], conversation, since=seq)
        assert [next(rest) for _ in whole[i + 1 :]] == whole[i + 1 :]
        rest.close()
    assert [phase(event(frame)) for frame in whole if phase(event(frame))] == [
        *("running", "completed", "running", "interrupted", "running", "completed", "running", "failed")
    ]


def test_a_stream_cut_after_every_event_of_a_run_under_way_loses_and_repeats_nothing(one: httpx.Client, other: httpx.Client) -> None:
    """Each connection lives for one event, and the next one goes to the other process."""
    thread_id = some_id()
    start(one, thread_id, "slow please")
    came: list[str] = []
    while not came or phase(event(came[-1])) not in OVER:
        since = event(came[-1])["seq"] if came else 0
        stream = frames((one, other)[len(came) % 2], thread_id, since=since)
        came.append(next(stream))
        stream.close()

    assert came == until_over(one, thread_id)
    assert len(came) > 100


def test_the_state_is_there_before_the_end_is_told(one: httpx.Client, other: httpx.Client) -> None:
    """Whoever reads `completed` finds the answer in the thread, in every process; the message is a plain string."""
    thread_id = some_id()
    start(one, thread_id, "hello there")
    came = until_over(other, thread_id)

    state = other.get(f"/threads/{thread_id}/state").json()["values"]
    assert [message["content"] for message in state["messages"]] == ["hello there", "hello there"]
    assert told(came, "values")[-1]["messages"][-1] == {
        "type": "ai", "content": "hello there", "id": state["messages"][-1]["id"]
    }  # fmt: skip


def test_a_stream_that_is_there_before_the_thread_sees_its_runs(one: httpx.Client, other: httpx.Client) -> None:
    """It waits for a thread that nobody has made yet, and stays over more than one run."""
    thread_id = some_id()
    with following(one, thread_id, ["lifecycle"]) as stream:
        start(other, thread_id, "hello")
        first = [event(next(stream)) for _ in range(4)]
        start(one, thread_id, "hello again")
        second = [event(next(stream)) for _ in range(4)]

    assert [phase(found) for found in first if phase(found)] == ["running", "completed"]
    assert [phase(found) for found in second if phase(found)] == ["running", "completed"]
    assert first[0]["params"]["data"]["graph_name"] == BRISK


# --- what is told


def test_messages_are_content_blocks(one: httpx.Client) -> None:
    """A start, one block that grows, a finish; the deltas are the text."""
    thread_id = some_id()
    start(one, thread_id, "uno dos tres")
    messages = told(until_over(one, thread_id), "messages")

    assert [data["event"] for data in messages] == [
        *("message-start", "content-block-start"), *["content-block-delta"] * 3, *("content-block-finish", "message-finish")
    ]  # fmt: skip
    assert (messages[0]["role"], messages[0]["metadata"]["langgraph_node"]) == ("ai", "echo")
    assert len({data["id"] for data in messages}) == 1
    assert "".join(data["delta"]["text"] for data in messages if data["event"] == "content-block-delta") == "uno dos tres"
    assert messages[-2]["content"] == {"type": "text", "text": "uno dos tres"}


def test_subgraphs_have_a_life_and_a_name_of_their_own(one: httpx.Client) -> None:
    """Each is told of before what it says, and ends before its graph does; its tokens carry its namespace."""
    thread_id = some_id()
    start(one, thread_id, "team please")
    came = [event(frame) for frame in until_over(one, thread_id)]

    inner = [e for e in came if e["params"]["namespace"] and e["params"]["namespace"][0].startswith("team:")]
    assert [e["params"]["data"]["event"] for e in inner if e["method"] == "lifecycle"] == ["started", "completed"]
    assert inner[0]["method"] == "lifecycle"
    begun = inner[0]["params"]["data"]
    assert (begun["graph_name"], begun["namespace"]) == ("team", inner[0]["params"]["namespace"])
    assert begun["trigger_call_id"] in [e["params"]["data"]["id"] for e in came if e["method"] == "tasks"]
    text = "".join(e["params"]["data"]["delta"]["text"] for e in inner if e["params"]["data"].get("event") == "content-block-delta")
    assert text == "the team says hello"
    assert {e["method"] for e in inner} >= {"values", "updates", "messages", "checkpoints", "tasks", "custom"}


@pytest.mark.parametrize(
    ("wishes", "only"),
    [
        ({"namespaces": [[]], "depth": 0}, {0}),
        ({"namespaces": [["team"]]}, {1}),
        ({"namespaces": [[]], "depth": 1}, {0, 1}),
        ({}, {0, 1}),
        ({"namespaces": [["nobody"]]}, set()),
    ],
    ids=str,
)
def test_namespaces_and_depth_choose_graphs(one: httpx.Client, wishes: dict[str, Any], only: set[int]) -> None:
    """A prefix may leave out the task; a depth counts from it."""
    thread_id = some_id()
    start(one, thread_id, "team please")
    whole = until_over(one, thread_id)
    wanted = [
        frame
        for frame in whole
        if len(event(frame)["params"]["namespace"]) in only
        and (wishes.get("namespaces") != [["team"]] or event(frame)["params"]["namespace"][0].startswith("team:"))
    ]

    stream = frames(one, thread_id, **wishes)
    assert [next(stream) for _ in wanted] == wanted
    stream.close()


def test_channels_are_what_was_asked_for(one: httpx.Client) -> None:
    """A named custom channel has only what bears its name; `custom` has both kinds."""
    thread_id = some_id()
    start(one, thread_id, "team please")
    until_over(one, thread_id)

    named = until_over(one, thread_id, channels=["custom:progress", "lifecycle"])
    every = until_over(one, thread_id, channels=["custom", "lifecycle"])

    assert told(named, "custom") == [{"name": "progress", "payload": {"speaks": "team"}}]
    assert told(every, "custom") == [{"payload": {"looked_up": "team please"}}, *told(named, "custom")]
    assert {event(frame)["method"] for frame in named} == {"custom", "lifecycle"}


def test_a_checkpoint_comes_right_before_its_values(one: httpx.Client) -> None:
    """So user interfaces know which state a message belongs to; the ids are those of the history."""
    thread_id = some_id()
    start(one, thread_id, "hello")
    root = [e for e in map(event, until_over(one, thread_id)) if e["params"]["namespace"] == []]
    pairs = [
        (before["params"]["data"], after["params"]["data"])
        for before, after in pairwise(root)
        if (before["method"], after["method"]) == ("checkpoints", "values")
    ]
    states = {state["checkpoint_id"]: state for state in one.post(f"/threads/{thread_id}/history", json={"limit": 100}).json()}

    assert len(pairs) == 3
    for checkpoint, values in pairs:
        state = states[checkpoint["id"]]
        assert (checkpoint["step"], checkpoint.get("parent_id")) == (state["metadata"]["step"], state["parent_checkpoint_id"])
        assert [m["id"] for m in values["messages"]] == [m["id"] for m in state["values"]["messages"]]


def test_a_question_is_asked_once_with_both_words_for_it(one: httpx.Client) -> None:
    """Order: running, values, the question, interrupted; then the answer's run."""
    thread_id = some_id()
    start(one, thread_id, QUESTION)
    came = until_over(one, thread_id)
    (asked,) = told(came, "input.requested")

    assert asked["payload"] == asked["value"] == {"action": "refund", "order": 7, "question": "Refund order 7?"}
    methods = [(e["method"], phase(e)) for e in map(event, came)]
    assert methods.index(("input.requested", "")) > max(i for i, (method, _) in enumerate(methods) if method == "values")
    assert methods[-1] == ("lifecycle", "interrupted")
    assert "__interrupt__" not in told(came, "values", [])[-1]
    answer = command(one, thread_id, "input.respond", interrupt_id=asked["interrupt_id"], namespace=[], response="yes")
    assert UUID(answer["result"]["run_id"])
    rest = until_over(one, thread_id, since=answer["meta"]["applied_through_seq"])
    assert [phase(e) for e in map(event, rest) if phase(e)] == ["running", "completed"]
    assert told(rest, "values", [])[-1]["messages"][-1]["content"] == "order 7: yes"


def test_several_questions_are_answered_in_one_command(one: httpx.Client) -> None:
    """Both are asked; one answer leaves the thread waiting, two end it."""
    thread_id = some_id()
    start(one, thread_id, "both", assistant_id=ASKING)
    asked = {data["payload"]["question"]: data["interrupt_id"] for data in told(until_over(one, thread_id), "input.requested")}
    command(one, thread_id, "input.respond", interrupt_id=asked["left"], response="again")
    again = told(until_over(one, thread_id, 2), "lifecycle", [])
    state = one.get(f"/threads/{thread_id}/state").json()
    responses = [{"interrupt_id": i["id"], "namespace": [], "response": i["value"]["question"]} for i in state["interrupts"]]
    command(one, thread_id, "input.respond", responses=responses)
    until_over(one, thread_id, 3)

    assert asked.keys() == {"left", "right"}
    assert again[-1]["event"] == "interrupted"
    said = [message["content"] for message in one.get(f"/threads/{thread_id}/state").json()["values"]["messages"]]
    assert {"left: left", "right: right", "finished"} <= {*said}


def test_tools_begin_and_finish(one: httpx.Client) -> None:
    """The supervisor's specialists look things up; how they conclude is no tool."""
    thread_id = some_id()
    body = says("¿Cuáles son mis facturas?", id="C-1001")
    command(one, thread_id, "run.start", assistant_id="supervisor", input=body["input"])
    came = until_over(one, thread_id)
    tools = told(came, "tools")

    assert [(data["event"], data.get("tool_name")) for data in tools] == [("tool-started", "list_invoices"), ("tool-finished", None)]
    assert tools[0]["tool_call_id"] == tools[1]["tool_call_id"]
    assert "INV-" in tools[1]["output"]
    calls = [data["content"] for data in told(came, "messages") if data["event"] == "content-block-finish"]
    assert {"type": "tool_call", "id": tools[0]["tool_call_id"], "name": "list_invoices", "args": {}} in calls


def test_runs_of_the_first_protocol_are_told_too(one: httpx.Client) -> None:
    """With what they log; and a v2 run can be joined and cancelled as any other."""
    thread_id = new_thread(one)
    one.post(f"/threads/{thread_id}/runs/wait", json=brisk("hello", stream_mode=["values"])).raise_for_status()
    came = until_over(one, thread_id)
    run_id = start(one, thread_id, "hang", assistant_id=STICKY)
    running = frames(one, thread_id, ["lifecycle"], since=event(came[-1])["seq"])
    assert phase(event(next(running))) == "running"
    assert one.post(f"/threads/{thread_id}/runs/{run_id}/cancel", params={"wait": 1}).status_code == 200
    assert phase(event(next(running))) == "interrupted"
    running.close()

    assert [phase(event(frame)) for frame in came if phase(event(frame))] == ["running", "completed"]
    assert told(came, "values", [])[-1]["messages"][-1]["content"] == "hello"
    joined = follow(one, f"/threads/{thread_id}/runs/{run_id}/stream", -1)
    assert [found.name for found in joined if found.name in ("metadata", "end")] == ["metadata", "end"]
    assert not [found for found in joined if found.name.startswith("@")]
    assert one.get(f"/threads/{thread_id}/runs").json()[0]["run_id"] == run_id


# --- commands


def test_run_start_makes_the_thread_and_says_where_its_events_begin(one: httpx.Client) -> None:
    """Nothing of the run is before the number in the answer, all of the runs before it is."""
    thread_id = some_id()
    first = command(one, thread_id, "run.start", assistant_id=BRISK, input=given("a"), metadata={"ticket": 7})
    came = until_over(one, thread_id)
    second = command(one, thread_id, "run.start", assistant_id=BRISK, input=given("b"))
    after = until_over(one, thread_id, since=second["meta"]["applied_through_seq"])

    assert first["meta"] == {"applied_through_seq": 0}
    assert event(came[-1])["seq"] <= second["meta"]["applied_through_seq"]
    assert {e["event_id"].split(":")[1] for e in map(event, after)} == {second["result"]["run_id"]}
    assert phase(event(after[0])) == "running"
    run = one.get(f"/threads/{thread_id}/runs/{first['result']['run_id']}").json()
    assert (run["status"], run["metadata"]["ticket"]) == ("success", 7)


@pytest.mark.parametrize("field", ["multitask_strategy", "multitaskStrategy"])
def test_run_start_knows_both_names_of_the_strategy(one: httpx.Client, field: str) -> None:
    """`interrupt` ends the run under way, `reject` is an answer that says so."""
    thread_id = some_id()
    first = start(one, thread_id, "hang", assistant_id=STICKY)
    refused = command(one, thread_id, "run.start", assistant_id=BRISK, input=given("x"), **{field: "reject"})
    start(one, thread_id, "hello", **{field: "interrupt"})
    until_over(one, thread_id, 2)

    assert (refused["type"], refused["error"]) == ("error", "invalid_argument")
    assert one.get(f"/threads/{thread_id}/runs/{first}").json()["status"] == "interrupted"


def test_run_start_on_a_thread_that_asks_answers_unless_it_is_an_input(one: httpx.Client) -> None:
    """RemoteGraph resumes this way; a new message begins a new turn."""
    thread_id = some_id()
    start(one, thread_id, QUESTION)
    until_over(one, thread_id)
    command(one, thread_id, "run.start", assistant_id=BRISK, input="certainly")
    answered = until_over(one, thread_id, 2)
    start(one, thread_id, QUESTION)
    until_over(one, thread_id, 3)
    start(one, thread_id, "never mind")
    new_turn = until_over(one, thread_id, 4)

    assert told(answered, "values", [])[-1]["messages"][-1]["content"] == "order 7: certainly"
    assert told(new_turn, "values", [])[-1]["messages"][-1]["content"] == "never mind"


def test_a_fork_begins_from_an_earlier_checkpoint(one: httpx.Client) -> None:
    """By `config.configurable.checkpoint_id` or by `state.fork`; the checkpoints can be listed."""
    thread_id = some_id()
    for text in ("one", "two"):
        start(one, thread_id, text)
    until_over(one, thread_id, 2)
    listed = command(one, thread_id, "state.listCheckpoints", limit=50)["result"]["checkpoints"]
    steps = [entry["step"] for entry in listed]
    earlier = listed[steps.index(2)]["id"]  # the end of the first turn

    start(one, thread_id, "three", config={"configurable": {"checkpoint_id": earlier}})
    until_over(one, thread_id, 3)
    by_config = command(one, thread_id, "state.get", namespace=[], keys=["messages"])["result"]
    forked = command(one, thread_id, "state.fork", checkpoint_id=earlier, input=given("four"))
    until_over(one, thread_id, 4)
    by_fork = command(one, thread_id, "state.get", namespace=[])["result"]

    assert [m["content"] for m in by_config["values"]["messages"]] == ["one", "one", "three", "three"]
    assert by_config["values"].keys() == {"messages"}
    assert (forked["result"]["thread_id"], bool(UUID(forked["result"]["run_id"]))) == (thread_id, True)
    assert [m["content"] for m in by_fork["values"]["messages"]] == ["one", "one", "four", "four"]
    assert by_fork["checkpoint"].keys() == {"id", "ns"}
    assert command(one, thread_id, "state.fork", checkpoint_id="nothing")["error"] == "no_such_checkpoint"


def test_the_tree_shows_graph_and_subgraphs(one: httpx.Client) -> None:
    """Of the latest run, or of the one that is named."""
    thread_id = some_id()
    run_id = start(one, thread_id, "team please")
    until_over(one, thread_id)
    start(one, thread_id, "hello")
    until_over(one, thread_id, 2)

    latest = command(one, thread_id, "agent.getTree")["result"]["tree"]
    named = command(one, thread_id, "agent.getTree", run_id=run_id)["result"]["tree"]

    assert (latest["graph_name"], latest["status"], latest["namespace"]) == (BRISK, "completed", [])
    assert [child["graph_name"] for child in latest["children"]] == ["look_up"]
    assert [child["graph_name"] for child in named["children"]] == ["look_up", "team"]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("run.start", {}, "invalid_argument"),
        ("run.start", {"assistant_id": "nobody", "input": given("x")}, "invalid_argument"),
        ("run.start", {"assistant_id": BRISK, "input": {"messages": []}}, "invalid_argument"),
        ("run.start", {"assistant_id": BRISK, "input": given("x"), "multitask_strategy": "never"}, "invalid_argument"),
        (
            "run.start",
            {"assistant_id": BRISK, "input": given("x"), "config": {"configurable": {"checkpoint_id": "x"}}},
            "no_such_checkpoint",
        ),
        ("input.respond", {}, "invalid_argument"),
        ("input.respond", {"interrupt_id": "x", "response": 1}, "no_such_interrupt"),
        ("input.respond", {"interrupt_id": "0" * 32, "response": 1}, "no_such_run"),
        ("agent.getTree", {}, "no_such_run"),
        ("state.get", {"namespace": []}, "no_such_run"),
        ("state.listCheckpoints", {"limit": 0}, "invalid_argument"),
        ("subscription.subscribe", {"channels": ["values"]}, "not_supported"),
        ("input.inject", {}, "unknown_command"),
        ("fly", {}, "unknown_command"),
    ],
)
def test_what_cannot_be_done_is_an_answer_with_a_code(one: httpx.Client, method: str, params: dict[str, Any], code: str) -> None:
    """HTTP 200, as the clients expect it."""
    answer = command(one, some_id(), method, **params)

    assert (answer["type"], answer["error"], bool(answer["message"])) == ("error", code, True)


def test_an_answer_has_the_number_of_its_command(one: httpx.Client) -> None:
    """Done or refused."""
    thread_id = new_thread(one)
    done = {"id": 41, "method": "run.start", "params": {"assistant_id": BRISK, "input": given("hello")}}
    answers = [one.post(f"/threads/{thread_id}/commands", json=body).json() for body in (done, {"id": 42, "method": "fly"})]

    assert [(answer["id"], answer["type"]) for answer in answers] == [(41, "success"), (42, "error")]


@pytest.mark.parametrize("body", [{}, {"id": 1}, {"method": "run.start"}, {"id": "x", "method": "run.start"}, {"id": 1, "method": 2}])
def test_a_command_without_id_or_method_is_a_400(one: httpx.Client, body: dict[str, Any]) -> None:
    """With the same form of error."""
    answer = one.post(f"/threads/{some_id()}/commands", json=body)

    assert answer.status_code == 400
    assert (answer.json()["type"], answer.json()["id"], answer.json()["error"]) == ("error", None, "invalid_argument")


@pytest.mark.parametrize(
    "body", [{}, {"channels": []}, {"channels": ["nobody"]}, {"channels": ["custom:"]}, {"channels": ["values"], "depth": -1}], ids=str
)
def test_a_stream_without_known_channels_is_a_400(one: httpx.Client, body: dict[str, Any]) -> None:
    """A problem that names what there is."""
    answer = one.post(f"/threads/{some_id()}/stream/events", json=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


# --- when a process dies


def test_a_run_whose_process_dies_goes_on_in_the_same_stream(tmp_path: Any) -> None:
    """The reader in the other process sees the run begin again and end once; what comes later, from anywhere, is the same."""
    fleet = Fleet(tmp_path, None, LEASE_SECONDS="1", EXECUTION="local")
    try:
        keeper, doomed = fleet.gateway(EXECUTION="local"), fleet.gateway(EXECUTION="local", step=0.1)
        with httpx.Client(base_url=doomed.url, timeout=60) as there, httpx.Client(base_url=keeper.url, timeout=60) as here:
            thread_id = some_id()
            start(there, thread_id, "slow please")
            came: list[str] = []
            for frame in frames(here, thread_id):
                came.append(frame)
                if '"step":5' in frame:
                    doomed.kill()
                if phase(event(frame)) in OVER:
                    break
            assert until_over(here, thread_id) == came
            for since in (event(came[i])["seq"] for i in range(0, len(came) - 1, 7)):
                assert until_over(here, thread_id, since=since) == [frame for frame in came if event(frame)["seq"] > since]
            said = here.get(f"/threads/{thread_id}/state").json()["values"]["messages"]
    finally:
        fleet.close()

    assert [phase(event(frame)) for frame in came if phase(event(frame))] == ["running", "running", "completed"]
    assert [message["content"] for message in said] == ["slow please", "slow please"]


def test_a_stream_breaks_off_when_its_process_goes_down(tmp_path: Any) -> None:
    """It does not end properly, which clients would take for the last word; they come back with the last number."""
    fleet = Fleet(tmp_path, None, EXECUTION="local")
    try:
        service = fleet.gateway(EXECUTION="local")
        thread_id = some_id()
        with httpx.Client(base_url=service.url, timeout=30) as http:
            start(http, thread_id, "hello")
            until_over(http, thread_id)
            with following(http, thread_id) as stream, http.stream("GET", f"/threads/{thread_id}/stream") as old_stream:
                next(stream)
                service.send(signal.SIGTERM)
                with pytest.raises(httpx.RemoteProtocolError):
                    list(stream)
                with pytest.raises(httpx.RemoteProtocolError):
                    old_stream.read()
        assert service.exit_code(25.0) == 0
    finally:
        fleet.close()


# --- tenants


def test_another_tenants_thread_is_not_there(tmp_path: Any) -> None:
    """Neither its events nor its state nor its runs; the same id names another thread."""
    service = Service(tmp_path, API_KEYS="a-key:acme,b-key:bolt").start()
    try:
        with (
            httpx.Client(base_url=service.url, headers={"x-api-key": "a-key"}, timeout=30) as acme,
            httpx.Client(base_url=service.url, headers={"x-api-key": "b-key"}, timeout=30) as bolt,
        ):
            thread_id = some_id()
            start(acme, thread_id, "How do I change my PIN?", assistant_id="supervisor")
            until_over(acme, thread_id)
            assert bolt.get(f"/threads/{thread_id}/stream").status_code == 404
            assert command(bolt, thread_id, "state.get")["error"] == "no_such_run"
            assert command(bolt, thread_id, "agent.getTree")["error"] == "no_such_run"
            with following(bolt, thread_id, ["lifecycle"]) as silent:
                mine = start(bolt, thread_id, "Hello", assistant_id="supervisor")
                assert event(next(silent))["event_id"].split(":")[1] == mine
            anonymous = httpx.post(f"{service.url}/threads/{thread_id}/commands", json={"id": 1, "method": "state.get"})
            assert anonymous.status_code == 401
    finally:
        service.close()


# --- the real clients


async def test_the_async_sdk_follows_a_thread(pair: tuple[Member, Member]) -> None:
    """`threads.stream()`: tokens, values, subgraphs, extensions, the output, and a question that is answered."""
    async with get_client(url=pair[0].url) as client:
        async with client.threads.stream(assistant_id=BRISK) as thread:
            await thread.run.start(input=given("uno dos tres"))
            spoken = [message async for message in thread.messages]  # that loop moves the data, so their texts are read after it
            texts = [await message.text for message in spoken]
            values: Any = await thread.output
        async with client.threads.stream(assistant_id=BRISK) as thread:
            await thread.run.start(input=given("team please"))
            names = [handle.graph_name async for handle in thread.subgraphs]
            await thread.output
        async with client.threads.stream(assistant_id=BRISK) as thread:
            await thread.run.start(input=given("team please"))
            progress = [data async for data in thread.extensions["progress"]]
        async with client.threads.stream(assistant_id=BRISK) as thread:
            await thread.run.start(input=given(QUESTION))
            snapshots = [snapshot async for snapshot in thread.values]
            (asked,) = thread.interrupts
            await thread.run.respond("yes")
            answered: Any = await thread.output

    assert texts == ["uno dos tres"]
    assert values["messages"][-1]["content"] == "uno dos tres"
    assert names == ["look_up", "team"]
    assert progress == [{"name": "progress", "payload": {"speaks": "team"}}]
    assert snapshots[-1]["messages"][-1]["content"] == QUESTION
    assert asked["value"]["question"] == "Refund order 7?"
    assert answered["messages"][-1]["content"] == "order 7: yes"


async def test_the_async_sdk_sees_tools_and_raw_events(pair: tuple[Member, Member]) -> None:
    """A tool call with its output; `events` until the run is over."""
    async with get_client(url=pair[0].url) as client:
        async with client.threads.stream(assistant_id="supervisor") as thread:
            await thread.run.start(input=says("¿Cuáles son mis facturas?", id="C-1001")["input"])
            handles = [handle async for handle in thread.tool_calls]
            calls = [(handle.name, await handle.output) for handle in handles]
            seen = []
            async for found in thread.events:
                seen.append(found["method"])
                if phase(found) in OVER:
                    break

    assert [name for name, _ in calls] == ["list_invoices"]
    assert {"lifecycle", "values", "updates", "messages", "tools", "checkpoints", "tasks"} <= {*seen}


def test_the_sync_sdk_does_the_same(pair: tuple[Member, Member]) -> None:
    """Tokens and the output."""
    with get_sync_client(url=pair[0].url) as client:
        with client.threads.stream(assistant_id=BRISK) as thread:
            thread.run.start(input=given("uno dos tres"))
            texts = [str(message.text) for message in thread.messages]
            values: Any = thread.output

    assert texts == ["uno dos tres"]
    assert values["messages"][-1]["content"] == "uno dos tres"


async def test_a_failed_run_raises_in_the_sdk(pair: tuple[Member, Member]) -> None:
    """With our words."""
    async with get_client(url=pair[0].url) as client:
        async with client.threads.stream(assistant_id=BRISK) as thread:
            await thread.run.start(input=given("boom"))
            with pytest.raises(RuntimeError, match="the run failed"):
                await thread.output


async def test_remote_graph_streams_in_version_three(pair: tuple[Member, Member]) -> None:
    """Messages and output; a question is answered with a `Command`, on the same thread."""
    async with get_client(url=pair[0].url) as client:
        graph = RemoteGraph(BRISK, client=client)
        config: Any = {"configurable": {"thread_id": some_id()}}
        async with await graph.astream_events(given("uno dos tres"), config, version="v3") as run:
            spoken = [message async for message in run.messages]
            texts = [await message.text for message in spoken]
            output: Any = await run.output()
        config = {"configurable": {"thread_id": some_id()}}
        async with await graph.astream_events(given(QUESTION), config, version="v3") as run:
            _ = [snapshot async for snapshot in run.values]
            is_interrupted, asked = await run.interrupted(), await run.interrupts()
        async with await graph.astream_events(Command(resume="yes"), config, version="v3") as run:
            snapshots = [snapshot async for snapshot in run.values]

    assert texts == ["uno dos tres"]
    assert output["messages"][-1]["content"] == "uno dos tres"
    assert (is_interrupted, [question["value"]["order"] for question in asked]) == (True, [7])
    assert snapshots[-1]["messages"][-1]["content"] == "order 7: yes"
