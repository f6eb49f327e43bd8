"""From the log of a run to the events of protocol v2: what is held back, given up, shortened, numbered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.runs.protocol_events import NUMBERS, ProtocolEvent, Subscription, ThreadTranslator, last_seq
from app.runs.protocol_messages import short
from app.storage.redis.runs import Event, ThreadEvent

AT = "2026-11-27T10:00:00.250000+00:00"
META = {"langgraph_node": "echo", "run_id": "r", "thread_id": "t", "ls_provider": "acme", "ls_model_name": "m-1", "langgraph_step": 3}
Entry = tuple[str, Any]
BEGUN: Entry = ("@begun", {"graph_id": "g", "stream_mode": ["values", "messages-tuple", "checkpoints"]})
END: Entry = ("end", {"run_id": "r", "status": "success"})


def chunk(text: str, key: str = "m", **more: Any) -> Entry:
    return "messages", [{"type": "AIMessageChunk", "id": key, "content": text, **more}, META]


def calls(*chunks: dict[str, Any], **more: Any) -> Entry:
    return chunk("", tool_call_chunks=list(chunks), **more)


def log(*entries: Entry, run_id: str = "r", first: int = 1) -> list[ThreadEvent]:
    return [ThreadEvent(run_id, Event(first + i, name, json.dumps(data).encode(), AT)) for i, (name, data) in enumerate(entries)]


def told(*entries: Entry) -> list[ProtocolEvent]:
    translator = ThreadTranslator()
    return [event for entry in log(*entries) for event in translator.events(entry)]


def data_of(events: list[ProtocolEvent], method: str) -> list[dict[str, Any]]:
    return [event.data for event in events if event.method == method]


def test_a_frame_has_everything_that_clients_read():
    """Number, id that names the run, namespace and milliseconds; one line of JSON."""
    (event,) = told(BEGUN)
    name, data, number, *_ = event.frame().decode().split("\n")

    assert (name, number) == ("event: lifecycle", f"id: {NUMBERS}")
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "event",
        "event_id": f"synth:r:{NUMBERS}",
        "seq": NUMBERS,
        "method": "lifecycle",
        "params": {"namespace": [], "timestamp": 1795773600250, "data": {"event": "running", "graph_name": "g"}},
    }


def test_a_message_grows_in_blocks_and_says_what_it_used():
    """Text and tool calls are blocks of their own, in the order in which they began; usage is the sum of the chunks'."""
    events = told(
        BEGUN,
        chunk("he"),
        chunk("llo", usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}),
        calls({"index": 0, "id": "c1", "name": "find", "args": '{"a"'}),
        calls({"index": 0, "id": None, "name": None, "args": ": 1}"}, usage_metadata={"output_tokens": 1}),
        chunk("", chunk_position="last", response_metadata={"finish_reason": "tool_calls"}),
    )
    messages = data_of(events, "messages")

    assert messages[0] == {
        "event": "message-start",
        "id": "m",
        "role": "ai",
        "metadata": {"langgraph_node": "echo", "run_id": "r", "thread_id": "t", "provider": "acme", "model": "m-1"},
    }
    assert [(data["event"], data.get("index")) for data in messages[1:]] == [
        ("content-block-start", 0),
        ("content-block-delta", 0),
        ("content-block-delta", 0),
        ("content-block-start", 1),
        ("content-block-delta", 1),
        ("content-block-delta", 1),
        ("content-block-finish", 0),
        ("content-block-finish", 1),
        ("message-finish", None),
    ]
    assert messages[4]["content"] == {"type": "tool_call_chunk", "id": "c1", "name": "find", "args": ""}
    assert messages[5]["delta"] == {"type": "tool-call-delta", "args": '{"a"'}
    assert [data["content"] for data in messages if data["event"] == "content-block-finish"] == [
        {"type": "text", "text": "hello"},
        {"type": "tool_call", "id": "c1", "name": "find", "args": {"a": 1}},
    ]
    usage = {"input_tokens": 3, "output_tokens": 3, "total_tokens": 5}
    assert messages[-1] == {"event": "message-finish", "id": "m", "usage": usage, "reason": "tool_calls"}
    assert data_of(events, "tools") == [{"event": "tool-started", "tool_call_id": "c1", "tool_name": "find", "input": {"a": 1}}]


def test_arguments_that_are_no_json_make_an_invalid_call():
    """It is told as such, and no tool begins."""
    events = told(BEGUN, calls({"index": 0, "id": "c1", "name": "find", "args": '{"a'}, chunk_position="last"))

    (block,) = [data["content"] for data in data_of(events, "messages") if data["event"] == "content-block-finish"]
    assert (block["type"], block["args"]) == ("invalid_tool_call", '{"a')
    assert data_of(events, "tools") == []


def test_a_message_that_came_whole_is_not_said_twice():
    """What was streamed is not repeated by the message that the node returns; what was not has one delta."""
    whole = {"type": "ai", "id": "m", "content": "hello", "tool_calls": []}
    other = {**whole, "id": "n", "content": [{"type": "text", "text": "by"}, {"type": "text", "text": "e"}]}
    events = told(BEGUN, chunk("hello", chunk_position="last"), ("messages", [whole, META]), ("messages", [other, META]))
    messages = data_of(events, "messages")

    assert [data["id"] for data in messages if data["event"] == "message-start"] == ["m", "n"]
    assert [data["content"]["text"] for data in messages if data["event"] == "content-block-finish"] == ["hello", "bye"]


def test_a_tool_that_answers_is_told_once_with_its_outcome():
    """Also if its call was in an earlier run; a failure is an error."""
    said = {"type": "tool", "id": "x", "content": "found", "tool_call_id": "c1", "name": "find", "status": "success"}
    failed = {**said, "tool_call_id": "c2", "status": "error", "content": "no"}
    events = told(
        BEGUN,
        calls({"index": 0, "id": "c1", "name": "find", "args": "{}"}, chunk_position="last"),
        ("messages", [said, META]),
        ("messages", [failed, META]),
    )

    assert [(data["event"], data["tool_call_id"]) for data in data_of(events, "tools")] == [
        *(("tool-started", "c1"), ("tool-finished", "c1")),
        *(("tool-started", "c2"), ("tool-error", "c2")),
    ]


@pytest.mark.parametrize("name", ["conclude", "hand_back", "call_human"])
def test_how_a_specialist_ends_is_no_tool(name):
    """Those calls have no result that anybody could wait for."""
    assert data_of(told(BEGUN, calls({"index": 0, "id": "c", "name": name, "args": "{}"}, chunk_position="last")), "tools") == []


def test_what_an_attempt_did_not_finish_is_given_up():
    """When the next one begins, and at the end; the rest of such a message is not told."""
    events = told(BEGUN, chunk("he"), ("metadata", {"attempt": 2}), BEGUN, chunk("llo"), chunk("new", "n"), END)

    assert [(data["event"], data["id"]) for data in data_of(events, "messages") if "block" not in data["event"]] == [
        *(("message-start", "m"), ("error", "m")),
        *(("message-start", "n"), ("error", "n")),
    ]
    assert [data["event"] for data in data_of(events, "lifecycle")] == ["running", "running", "completed"]


@pytest.mark.parametrize(
    ("entries", "status"),
    [
        ((END,), "completed"),
        ((("@paused", {}), END), "interrupted"),
        ((("end", {"run_id": "r", "status": "interrupted"}),), "interrupted"),
        ((("error", {"error": "X", "message": "no", "code": "x"}),), "failed"),
    ],
)
def test_the_end_is_told_of_subgraphs_first(entries, status):
    """Innermost first, then the root's, which is the last event of a run."""
    events = told(BEGUN, ("values|a:1|b:2", {}), *entries)
    lifecycle = [(event.namespace, event.data["event"]) for event in events if event.method == "lifecycle"]

    assert lifecycle[1:] == [(("a:1",), "started"), (("a:1", "b:2"), "started"), (("a:1", "b:2"), status), (("a:1",), status), ((), status)]
    assert events[-1].namespace == ()
    assert events[-1].data.get("error") == ("no" if status == "failed" else None)


def test_a_run_that_never_began_only_ends():
    """It was cancelled while it waited."""
    (event,) = told(("end", {"run_id": "r", "status": "interrupted"}))

    assert (event.method, event.data) == ("lifecycle", {"event": "interrupted"})


def test_values_wait_for_their_checkpoint_and_for_nothing_else():
    """The checkpoint is told first; without one, or where none are logged, the values are not kept back."""

    def checkpoint(key: str, source: str) -> Entry:
        return "checkpoints", {
            "config": {"configurable": {"checkpoint_id": key}}, "metadata": {"step": 1, "source": source}, "parent_config": None
        }  # fmt: skip

    def order(*entries: Entry) -> list[str]:
        return [event.data.get("id") or str(event.data.get("n")) for event in told(*entries) if event.method != "lifecycle"]

    assert order(BEGUN, ("values", {"n": 1}), checkpoint("a", "loop")) == ["a", "1"]
    assert order(BEGUN, ("values", {"n": 1}), ("custom", 1), checkpoint("a", "loop")) == ["1", "None", "a"]
    assert order(BEGUN, checkpoint("a", "input"), ("values", {"n": 1}), END) == ["a", "1"]
    assert order(("@begun", {"graph_id": "g", "stream_mode": ["values"]}), ("values", {"n": 1})) == ["1"]
    assert order(BEGUN, ("values", {"n": 1, "__interrupt__": [{"id": "i", "value": 2}]})) == ["1", "None"]


def test_messages_of_a_state_are_shortened_and_stay_strings():
    """What says nothing is left out; the question is told apart from the state."""
    message = {"type": "ai", "content": "hi", "id": "m", "name": None, "additional_kwargs": {}, "tool_calls": [], "usage_metadata": None}
    state = {"messages": [message], "n": [1], "__interrupt__": [{"id": "i", "value": {"q": 1}, "response_schema": None}]}
    events = told(BEGUN, ("values", state), ("values", state))

    assert data_of(events, "values")[0] == {"messages": [{"type": "ai", "content": "hi", "id": "m"}], "n": [1]}
    assert data_of(events, "input.requested") == [{"interrupt_id": "i", "payload": {"q": 1}, "value": {"q": 1}}]
    assert short({**message, "tool_calls": [{"name": "f"}]})["tool_calls"] == [{"name": "f"}]


def test_custom_events_may_have_a_name():
    """Then they are sent on a channel of that name, and to all who want custom ones."""
    plain, named = [
        event for event in told(BEGUN, ("custom", {"a": 1}), ("custom", {"name": "x", "payload": 2})) if event.method == "custom"
    ]

    assert (plain.data, named.data) == ({"payload": {"a": 1}}, {"name": "x", "payload": 2})
    assert (plain.channel, named.channel) == ("custom", "custom:x")
    assert [Subscription(frozenset({"custom"})).wants(event) for event in (plain, named)] == [True, True]
    assert [Subscription(frozenset({"custom:x"})).wants(event) for event in (plain, named)] == [False, True]
    assert not Subscription(frozenset({"custom:y"})).wants(named)


ENTRIES = st.lists(
    st.sampled_from(
        [
            BEGUN,
            chunk("a"),
            chunk("b", "n"),
            chunk("", chunk_position="last"),
            calls({"index": 0, "id": "c", "name": "f", "args": "{}"}),
            ("values", {"n": 1}),
            ("values|a:1", {"n": 2}),
            ("updates", {"a": None}),
            ("tasks", {"id": "1", "name": "a", "result": {}, "interrupts": []}),
            ("custom", 1),
            ("debug", {}),
            ("@paused", {}),
        ]
    ),
    max_size=12,
)


@given(ENTRIES, st.integers(0, 14))
def test_whoever_comes_back_is_told_what_is_left(entries, cut):
    """Translated again from the beginning of the run, the events after any number are the same ones; numbers only grow."""
    whole = told(*entries, END)
    seen = whole[min(cut, len(whole) - 1)].seq

    again = [event for event in told(*entries, END) if event.seq > seen]

    assert again == whole[min(cut, len(whole) - 1) + 1 :]
    seqs = [event.seq for event in whole]
    assert seqs == sorted(set(seqs))
    assert whole[-1].seq <= last_seq(len(entries) + 1)
    assert (whole[-1].method, whole[-1].namespace) == ("lifecycle", ())
