"""What happens on a busy thread: the four strategies, also when many submit at once through two processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.support.fleet import wait_until
from tests.support.protocol import TERMINAL, Event, brisk, follow, new_thread

LIMIT = 30.0
SUBMITS = 20


def submit(http: httpx.Client, thread_id: str, text: str, strategy: str) -> httpx.Response:
    body = brisk(text, multitask_strategy=strategy, stream_mode=["updates"], stream_resumable=True)
    return http.post(f"/threads/{thread_id}/runs", json=body)


def said(http: httpx.Client, thread_id: str) -> list[str]:
    """What the thread's messages say, those of users and answers in turn."""
    values = http.get(f"/threads/{thread_id}").raise_for_status().json()["values"] or {}
    return [message["content"] for message in values.get("messages", [])]


def ended(http: httpx.Client, thread_id: str) -> list[dict[str, Any]]:
    """The thread's runs, oldest first, once all of them have ended."""
    wait_until(lambda: http.get(f"/threads/{thread_id}").json()["status"] != "busy", LIMIT)
    runs: list[dict[str, Any]] = http.get(f"/threads/{thread_id}/runs", params={"limit": 100}).raise_for_status().json()
    return runs[::-1]


def log(http: httpx.Client, run: dict[str, Any]) -> list[Event]:
    return follow(http, f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream", -1)


def check_turns(http: httpx.Client, runs: list[dict[str, Any]]) -> None:
    """No two executed at once: ids count over the thread, so the events of one run lie together; each has one terminal event."""
    spans: list[tuple[int, int]] = []
    for run in runs:
        came = log(http, run)
        assert [event.name for event in came if event.name in TERMINAL] == ["end"], run
        assert came[-1].data["status"] == run["status"]
        worked = [event.id for event in came if event.name != "end"]
        if worked:
            spans.append((worked[0], worked[-1]))
    spans.sort()
    assert all(last < first for (_, last), (first, _) in pairwise(spans)), spans


def submit_all(one: httpx.Client, other: httpx.Client, thread_id: str, text: str, strategy: str) -> list[httpx.Response]:
    """Twenty at once, half of them through each process."""
    with ThreadPoolExecutor(SUBMITS) as pool:
        return list(pool.map(lambda i: submit((one, other)[i % 2], thread_id, f"{text} {i}", strategy), range(SUBMITS)))


def test_enqueue_executes_every_run_in_the_order_of_acceptance(one: httpx.Client, other: httpx.Client) -> None:
    """Nothing is refused or lost; what the thread says in the end is every message, each followed by its answer."""
    thread_id = new_thread(one)

    answers = submit_all(one, other, thread_id, "turn", "enqueue")

    assert [answer.status_code for answer in answers] == [200] * SUBMITS
    runs = ended(one, thread_id)
    assert [run["status"] for run in runs] == ["success"] * SUBMITS
    check_turns(other, runs)
    texts = {answer.json()["run_id"]: f"turn {i}" for i, answer in enumerate(answers)}
    assert said(one, thread_id) == [text for run in runs for text in [texts[run["run_id"]]] * 2]
    starts = [log(one, run)[0].id for run in runs]
    assert starts == sorted(starts)


def test_reject_accepts_one_run_at_a_time(one: httpx.Client, other: httpx.Client) -> None:
    """The others are told to come back; nothing of them is left."""
    thread_id = new_thread(one)
    holder = submit(one, thread_id, "slow please", "enqueue").json()

    busy = submit_all(one, other, thread_id, "refused", "reject")
    one.post(f"/threads/{thread_id}/runs/{holder['run_id']}/cancel", params={"wait": 1})
    racing = submit_all(one, other, thread_id, "racing", "reject")

    assert {(answer.status_code, answer.json()["code"], answer.headers["retry-after"]) for answer in busy} == {(409, "thread_busy", "1")}
    accepted = [answer.json()["run_id"] for answer in racing if answer.status_code == 200]
    assert accepted
    assert {answer.status_code for answer in racing} <= {200, 409}
    runs = ended(one, thread_id)
    assert {run["run_id"] for run in runs} == {holder["run_id"], *accepted}
    check_turns(one, runs)


def test_of_many_who_want_an_idle_thread_for_themselves_one_gets_it(one: httpx.Client, other: httpx.Client) -> None:
    """`reject`, and the run that was accepted takes longer than the others take to ask."""
    thread_id = new_thread(one)
    with ThreadPoolExecutor(SUBMITS) as pool:
        answers = list(pool.map(lambda i: submit((one, other)[i % 2], thread_id, "slow please", "reject"), range(SUBMITS)))

    assert sorted(answer.status_code for answer in answers) == [200, *[409] * (SUBMITS - 1)]
    (run,) = (answer.json() for answer in answers if answer.status_code == 200)
    one.post(f"/threads/{thread_id}/runs/{run['run_id']}/cancel", params={"wait": 1})


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
def test_the_last_of_many_supersedes_all_others(one: httpx.Client, other: httpx.Client, strategy: str) -> None:
    """Whoever was accepted last succeeds; the others are interrupted or gone, and what is left of them is consistent."""
    thread_id = new_thread(one)
    submit(one, thread_id, "before", "enqueue")
    ended(one, thread_id)
    submit(one, thread_id, "slow please", "enqueue")

    answers = submit_all(one, other, thread_id, "turn", strategy)

    assert [answer.status_code for answer in answers] == [200] * SUBMITS
    runs = ended(one, thread_id)
    texts = {answer.json()["run_id"]: f"turn {i}" for i, answer in enumerate(answers)}
    last = runs[-1]
    assert last["status"] == "success"
    for run in runs[1:-1]:
        # One that is quick may have ended before it was superseded.
        assert (run["status"], run["ended_by"]) in [("success", None), ("interrupted", "superseded")], run
        assert strategy == "interrupt" or run["status"] == "success"
    check_turns(other, runs)
    messages = said(one, thread_id)
    assert messages[:2] == ["before", "before"]
    assert messages[-2:] == [texts[last["run_id"]]] * 2
    succeeded = [texts[run["run_id"]] for run in runs if run["status"] == "success" and run["run_id"] in texts]
    assert [text for text in messages if messages.count(text) == 2][2::2] == succeeded
    if strategy == "rollback":
        assert "slow please" not in messages
        assert len(messages) == 2 + 2 * len(succeeded)


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
def test_a_run_under_way_gives_way_at_once(one: httpx.Client, other: httpx.Client, strategy: str) -> None:
    """Superseded through another process; its stream ends with one terminal event, and the new run does not wait for its steps."""
    thread_id = new_thread(one)
    first = submit(one, thread_id, "slow please", "enqueue").json()
    path = f"/threads/{thread_id}/runs/{first['run_id']}"
    wait_until(lambda: one.get(f"/threads/{thread_id}").json()["values"], LIMIT)

    body = brisk("instead", multitask_strategy=strategy)
    values = other.post(f"/threads/{thread_id}/runs/wait", json=body).raise_for_status().json()

    kept = ["slow please"] if strategy == "interrupt" else []
    assert [message["content"] for message in values["messages"]] == [*kept, "instead", "instead"]
    if strategy == "interrupt":
        assert [one.get(path).json()[key] for key in ("status", "ended_by")] == ["interrupted", "superseded"]
        assert [event.data for event in follow(one, f"{path}/stream", -1) if event.name in TERMINAL] == [
            {"run_id": first["run_id"], "status": "interrupted"}
        ]
    else:
        assert one.get(path).status_code == 404


def test_strategies_may_be_mixed_on_one_thread(one: httpx.Client, other: httpx.Client) -> None:
    """Twenty at once, five of each: every accepted run ends, none beside another, and the thread is free afterwards."""
    thread_id = new_thread(one)
    strategies = ["enqueue", "interrupt", "rollback", "reject"] * (SUBMITS // 4)
    with ThreadPoolExecutor(SUBMITS) as pool:
        answers = list(pool.map(lambda at: submit((one, other)[at[0] % 2], thread_id, f"turn {at[0]}", at[1]), enumerate(strategies)))

    runs = ended(one, thread_id)
    refused = [strategy for strategy, answer in zip(strategies, answers, strict=True) if answer.status_code == 409]
    assert set(refused) <= {"reject"}
    assert {run["status"] for run in runs} <= {"success", "interrupted"}
    check_turns(one, runs)
    values = one.post(f"/threads/{thread_id}/runs/wait", json=brisk("after")).raise_for_status().json()
    assert [message["content"] for message in values["messages"]][-2:] == ["after", "after"]
