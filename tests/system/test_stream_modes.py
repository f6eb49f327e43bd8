"""Stream modes of the first protocol in a graph with subgraphs, and jumps from outside."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.engine_process import ASKING
from tests.support.protocol import Event, brisk, new_thread, says, stream

MODES = ["values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug"]
TEXT = "the team says hello"


def streamed(http: httpx.Client, body: dict[str, Any], thread_id: str | None = None) -> list[Event]:
    return stream(http, f"/threads/{thread_id or new_thread(http)}/runs/stream", body)[1]


def named(came: list[Event], kind: str) -> list[Event]:
    return [event for event in came if event.name.partition("|")[0] == kind]


# --- subgraphs


def test_events_of_subgraphs_carry_node_and_task(one: httpx.Client) -> None:
    """`mode|node:task`, the task's id as `tasks` has it, for every mode; those of the root have no suffix."""
    came = streamed(one, brisk("team please", stream_mode=MODES, stream_subgraphs=True))
    task = next(event.data["id"] for event in came if event.name == "tasks" and event.data["name"] == "team")
    suffix = f"|team:{task}"

    inner = {event.name.removesuffix(suffix) for event in came if event.name.endswith(suffix)}
    assert inner == {"values", "updates", "messages", "custom", "tasks", "checkpoints", "debug"}
    suffixes = {event.name.partition("|")[2].partition(":")[0] for event in came}
    assert suffixes == {"", "look_up", "team"}
    (update,) = [event.data for event in came if event.name == f"updates{suffix}"]
    assert [*update] == ["speak"]


def test_tokens_of_subgraphs_come_with_stream_subgraphs(one: httpx.Client) -> None:
    """`messages|ns` in the form of tuples, plain `messages/partial` in the form that grows."""
    came = streamed(one, brisk("team please", stream_mode=["messages", "messages-tuple"], stream_subgraphs=True))
    tuples = named(came, "messages")

    assert {event.name.partition(":")[0] for event in tuples} == {"messages|team"}
    assert "".join(event.data[0]["content"] for event in tuples) == TEXT
    assert {event.data[1]["langgraph_node"] for event in tuples} == {"speak"}
    partial = [event.data[0]["content"] for event in came if event.name == "messages/partial"]
    assert (partial[0], partial[-1]) == ("the", TEXT)
    assert len([event for event in came if event.name == "messages/metadata"]) == 1


def test_without_stream_subgraphs_a_subgraphs_answer_comes_once_and_whole(one: httpx.Client) -> None:
    """No tokens: the finished message, as the node of the subgraph returns it."""
    came = streamed(one, brisk("team please", stream_mode=["messages", "messages-tuple", "updates"]))

    assert not [event for event in came if "|" in event.name]
    spoken = [event.data[0] for event in named(came, "messages") if event.name == "messages" and event.data[0]["type"] == "ai"]
    assert [message["content"] for message in spoken] == [TEXT]
    assert not [event for event in came if event.name == "messages/partial"]
    complete = [event.data[0] for event in came if event.name == "messages/complete" and event.data[0]["type"] == "ai"]
    assert [message["id"] for message in complete] == [spoken[0]["id"]]


# --- interrupts


@pytest.mark.parametrize("modes", [["values"], ["messages-tuple"], ["updates"], ["custom", "tasks"]], ids=str)
def test_a_question_reaches_every_mode(one: httpx.Client, modes: list[str]) -> None:
    """In `updates` if that was asked for, else in `values`; with `response_schema`, which is null."""
    came = streamed(one, brisk("refund order 7", stream_mode=modes))

    (asked,) = [event for event in came if event.name in ("values", "updates") and "__interrupt__" in event.data]
    (interrupt,) = asked.data["__interrupt__"]
    assert asked.name == ("updates" if modes == ["updates"] else "values")
    assert interrupt.keys() == {"id", "value", "response_schema"}
    assert (interrupt["value"]["order"], interrupt["response_schema"]) == (7, None)


def test_a_stop_before_a_node_is_an_empty_list_in_updates(one: httpx.Client) -> None:
    """Nothing is asked, and the graph waits."""
    came = streamed(one, brisk("hello", stream_mode=["updates"], interrupt_before=["echo"]))

    assert [event.data["__interrupt__"] for event in came if "__interrupt__" in event.data] == [[]]


# --- stateless runs


def test_runs_without_a_thread_tell_of_no_checkpoints(one: httpx.Client) -> None:
    """There is no history to go back to; all other modes are as on a thread."""
    _, stateless = stream(one, "/runs/stream", brisk("hello", stream_mode=MODES))
    on_thread = streamed(one, brisk("hello", stream_mode=MODES))

    def names(came: list[Event]) -> list[str]:
        return [event.name for event in came if event.name not in ("checkpoints", "debug")]

    assert not named(stateless, "checkpoints")
    assert {event.data["type"] for event in named(stateless, "debug")} == {"task", "task_result"}
    assert {event.data["type"] for event in named(on_thread, "debug")} == {"task", "task_result", "checkpoint"}
    assert names(stateless) == names(on_thread)


# --- events


def test_mode_events_is_everything_that_runs(one: httpx.Client) -> None:
    """LangChain's events, version 2: chains and models, begin, stream and end, each with its parents; beside the other modes."""
    came = streamed(one, brisk("uno dos", stream_mode=["events", "values", "messages-tuple"]))
    found = [event.data for event in named(came, "events")]

    assert all({"event", "name", "run_id", "data", "tags", "metadata", "parent_ids"} <= event.keys() for event in found)
    assert (found[0]["event"], found[-1]["event"], found[0]["run_id"]) == ("on_chain_start", "on_chain_end", found[-1]["run_id"])
    tokens = [event["data"]["chunk"]["content"] for event in found if event["event"] == "on_chat_model_stream"]
    assert "".join(tokens) == "uno dos"
    assert {event["metadata"].get("langgraph_node") for event in found if event["event"] == "on_chat_model_stream"} == {"echo"}
    assert all(event["parent_ids"] for event in found if event["run_id"] != found[0]["run_id"])
    plain = streamed(one, brisk("uno dos", stream_mode=["values", "messages-tuple"]))
    assert [event.name for event in came if event.name != "events"] == [event.name for event in plain]
    assert [e.data["messages"][-1]["content"] for e in named(came, "values")] == [
        e.data["messages"][-1]["content"] for e in named(plain, "values")
    ]


def test_mode_events_ends_as_others_do(one: httpx.Client) -> None:
    """A failure, a question with its answer, and a cancellation."""
    failed = streamed(one, brisk("boom", stream_mode=["events"]))
    thread_id = new_thread(one)
    asked = streamed(one, brisk("refund order 7", stream_mode=["events", "values"]), thread_id)
    answer = {"assistant_id": "brisk", "command": {"resume": "yes"}, "stream_mode": ["events", "values"]}
    answered = streamed(one, answer, thread_id)
    thread_id = new_thread(one)
    with one.stream("POST", f"/threads/{thread_id}/runs/stream", json=brisk("slow please", stream_mode=["events"])) as response:
        path = response.headers["content-location"]
        assert one.post(f"{path}/cancel", params={"wait": 1}).status_code == 200
        response.read()

    assert [event.name for event in failed if event.name != "events"] == ["metadata", "error"]
    assert named(asked, "values")[-1].data["__interrupt__"][0]["value"]["order"] == 7
    assert one.get(f"/threads/{thread_id}").json()["status"] == "idle"
    assert named(answered, "values")[-1].data["messages"][-1]["content"] == "order 7: yes"


def test_mode_events_tells_no_prompt(one: httpx.Client) -> None:
    """Our instructions to a model are not for callers; what the customer said is there."""
    came = streamed(one, {**says("How do I change my PIN?"), "stream_mode": ["events"]})
    asked = [event.data for event in named(came, "events") if event.data["event"] == "on_chat_model_start"]

    assert asked
    kinds = {message["type"] for event in asked for batch in event["data"]["input"]["messages"] for message in batch}
    assert kinds <= {"human", "ai", "tool"}
    assert '"type":"system"' not in "".join(event.frame for event in came)


# --- jumps


def test_a_jump_goes_to_the_named_node(one: httpx.Client) -> None:
    """By name, in a list, or with an input of its own; `update` is an object or pairs."""
    spoken = {"messages": [{"role": "user", "content": "from outside"}]}
    hello = {"messages": [{"role": "user", "content": "hello"}]}
    for goto, update, text in (
        ("echo", hello, "hello"),
        (["echo"], list(hello.items()), "hello"),
        ({"node": "echo", "input": spoken}, hello, "from outside"),
        ([{"node": "echo", "input": spoken}], hello, "from outside"),
    ):
        thread_id = new_thread(one)
        streamed(one, brisk("first"), thread_id)
        body = {"assistant_id": "brisk", "command": {"goto": goto, "update": update}, "stream_mode": ["updates", "values"]}
        came = streamed(one, body, thread_id)

        assert [[*event.data] for event in named(came, "updates")] == [["echo"]], goto
        assert named(came, "values")[-1].data["messages"][-1]["content"] == text
        assert [m["content"] for m in named(came, "values")[0].data["messages"]][-1] == "hello"


@pytest.mark.parametrize(
    "command",
    [
        {"goto": "nowhere"},
        {"goto": {"node": "nowhere"}},
        {"goto": ["echo", {"node": "nowhere"}]},
        {"goto": {"node": ""}},
        {"goto": {"node": "echo", "input": {"steps": 3}}},
        {"goto": {"node": "echo", "input": {"messages": "x"}}},
        {"goto": 3},
        {"update": [["messages"]]},
        {"update": [["steps", 3]]},
    ],
    ids=str,
)
def test_a_jump_that_cannot_be_is_refused(one: httpx.Client, command: dict[str, Any]) -> None:
    """No such node, or an input that callers may not write."""
    answer = one.post(f"/threads/{new_thread(one)}/runs", json={"assistant_id": "brisk", "command": command})

    assert answer.status_code == 422, answer.text


def test_an_answer_may_come_with_an_update_and_a_jump(one: httpx.Client) -> None:
    """All in one step: two questions are answered beside a message that is added."""
    thread_id = new_thread(one)
    asked = streamed(one, brisk("both", assistant_id=ASKING, stream_mode=["values"]), thread_id)
    state = one.get(f"/threads/{thread_id}/state").json()
    command = {
        "resume": {interrupt["id"]: "yes" for interrupt in state["interrupts"]},
        "update": {"messages": [{"role": "user", "content": "and this"}]},
    }
    came = streamed(one, {"assistant_id": ASKING, "command": command, "stream_mode": ["values"]}, thread_id)

    assert len(state["interrupts"]) == 2
    assert asked[-1].data["status"] == "success"
    said = [message["content"] for message in named(came, "values")[-1].data["messages"]]
    assert {"and this", "left: yes", "right: yes", "finished"} <= {*said}
