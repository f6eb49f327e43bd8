"""Runs that ask: one question or several, answered by value or by id, once; and runs that are told where to stop."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.engine_process import ASKING
from tests.support.fleet import Fleet
from tests.support.protocol import TERMINAL, brisk, follow, new_thread, resumes, stream

REFUND = {"action": "refund", "order": 7, "question": "Refund order 7?"}


def wait(http: httpx.Client, thread_id: str, body: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = http.post(f"/threads/{thread_id}/runs/wait", json=body).raise_for_status().json()
    return values


def texts(values: dict[str, Any]) -> list[str]:
    return [message["content"] for message in values["messages"]]


def refund(http: httpx.Client) -> tuple[str, str]:
    """Ids of a thread that asks about order 7, and of its question."""
    thread_id = new_thread(http)
    (asked,) = wait(http, thread_id, brisk("refund order 7"))["__interrupt__"]
    return thread_id, asked["id"]


def questions(http: httpx.Client, thread_id: str) -> dict[str, str]:
    """What the thread asks, with the id of each question."""
    tasks = http.get(f"/threads/{thread_id}/state").raise_for_status().json()["tasks"]
    return {asked["value"]["question"]: asked["id"] for task in tasks for asked in task["interrupts"]}


def test_a_question_is_told_everywhere(one: httpx.Client, other: httpx.Client) -> None:
    """In the stream, in the state and on the thread, in every process; the run itself has succeeded."""
    thread_id = new_thread(one)
    response, came = stream(one, f"/threads/{thread_id}/runs/stream", brisk("refund order 7", stream_mode=["values", "updates"]))

    thread, state = (other.get(f"/threads/{thread_id}{more}").json() for more in ("", "/state"))
    run = other.get(response.headers["content-location"]).json()

    (task,) = state["tasks"]
    asked = {"value": REFUND, "id": task["interrupts"][0]["id"], "response_schema": None}
    assert came[-1].data["status"] == run["status"] == "success"
    assert [event.data["__interrupt__"] for event in came if "__interrupt__" in event.data] == [[asked], [asked]]
    assert thread["status"] == "interrupted"
    assert thread["interrupts"] == {task["id"]: [asked]}
    assert (state["next"], task["interrupts"], state["interrupts"]) == (["refund"], [asked], [asked])


@pytest.mark.parametrize("form", ["value", "id"])
def test_an_answer_is_given_by_value_or_by_id(one: httpx.Client, other: httpx.Client, form: str) -> None:
    """The other process resumes; what came before the question is not done again, and nothing is asked any more."""
    thread_id, question = refund(one)

    body = resumes("yes" if form == "value" else {question: "yes"}, stream_mode=["updates", "custom"])
    _, came = stream(other, f"/threads/{thread_id}/runs/stream", body)

    assert [name for event in came if event.name == "updates" for name in event.data] == ["refund", "echo"]
    assert not [event for event in came if event.name == "custom"]
    thread = one.get(f"/threads/{thread_id}").json()
    assert texts(thread["values"]) == ["refund order 7", "order 7: yes"]
    assert (thread["status"], thread["interrupts"]) == ("idle", {})


def test_the_state_may_be_edited_with_the_answer(one: httpx.Client) -> None:
    """What a human adds to the conversation is there when the run goes on, and stays."""
    thread_id, _ = refund(one)
    added = {"messages": [{"role": "user", "content": "it was a gift"}]}

    values = wait(one, thread_id, {"assistant_id": "brisk", "command": {"resume": "yes", "update": added}})

    assert texts(values) == ["refund order 7", "it was a gift", "order 7: yes"]


def test_a_second_answer_is_refused(one: httpx.Client, other: httpx.Client) -> None:
    """By value, by id, and by the id of a question that nobody asked; the thread stays as it was."""
    thread_id, question = refund(one)
    unknown = one.post(f"/threads/{thread_id}/runs/wait", json=resumes({"0" * 32: "yes"}))
    wait(one, thread_id, resumes("yes"))

    again = [other.post(f"/threads/{thread_id}/runs/wait", json=resumes(answer)) for answer in ("no", {question: "no"})]

    assert (unknown.status_code, unknown.json()["code"]) == (409, "no_such_interrupt")
    assert {(answer.status_code, answer.json()["code"]) for answer in again} == {(409, "no_interrupt")}
    assert texts(one.get(f"/threads/{thread_id}").json()["values"]) == ["refund order 7", "order 7: yes"]


def test_of_many_answers_at_once_one_is_accepted(one: httpx.Client, other: httpx.Client) -> None:
    """Whichever it is: it alone is what the thread says."""
    thread_id, question = refund(one)

    def answer(i: int) -> httpx.Response:
        given = f"answer {i}"
        body = resumes(given if i % 3 else {question: given})
        return (one, other)[i % 2].post(f"/threads/{thread_id}/runs/wait", json=body)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(answer, range(12)))

    (accepted,) = [i for i, response in enumerate(answers) if response.status_code == 200]
    refused = {(response.status_code, response.json()["code"]) for response in answers if response.status_code != 200}
    assert refused <= {(409, "interrupt_answered"), (409, "no_interrupt")}
    assert texts(one.get(f"/threads/{thread_id}").json()["values"]) == ["refund order 7", f"order 7: answer {accepted}"]


def test_several_questions_are_answered_by_id_in_any_order(one: httpx.Client) -> None:
    """A value alone is refused, since it does not say which; the graph goes on when the last one is answered."""
    thread_id = new_thread(one)
    asked = wait(one, thread_id, brisk("go", assistant_id=ASKING))["__interrupt__"]
    ids = questions(one, thread_id)
    assert ids == {question["value"]["question"]: question["id"] for question in asked}
    assert set(ids) == {"left", "right"}
    by_value = one.post(f"/threads/{thread_id}/runs/wait", json=resumes("yes", assistant_id=ASKING))

    wait(one, thread_id, resumes({ids["right"]: "no"}, assistant_id=ASKING))
    between = questions(one, thread_id), one.get(f"/threads/{thread_id}").json()
    twice = one.post(f"/threads/{thread_id}/runs/wait", json=resumes({ids["right"]: "yes"}, assistant_id=ASKING))
    values = wait(one, thread_id, resumes({ids["left"]: "yes"}, assistant_id=ASKING))

    assert (by_value.status_code, by_value.json()["code"]) == (422, "interrupt_ids_needed")
    assert between[0] == {"left": ids["left"]}
    assert between[1]["status"] == "interrupted"
    assert [asked["value"]["question"] for task in between[1]["interrupts"].values() for asked in task] == ["left"]
    assert (twice.status_code, twice.json()["code"]) == (409, "no_such_interrupt")
    assert texts(values) == ["go", "begun", "left: yes", "right: no", "finished"]


def test_several_questions_are_answered_at_once(one: httpx.Client) -> None:
    """One run, a map of ids to answers."""
    thread_id = new_thread(one)
    wait(one, thread_id, brisk("go", assistant_id=ASKING))
    ids = questions(one, thread_id)

    values = wait(one, thread_id, resumes({ids["left"]: 1, ids["right"]: 2}, assistant_id=ASKING))

    assert texts(values) == ["go", "begun", "left: 1", "right: 2", "finished"]


def test_two_people_answer_two_questions_at_once(one: httpx.Client, other: httpx.Client) -> None:
    """Both are heard, each once, though a third sends one of the answers again."""
    thread_id = new_thread(one)
    wait(one, thread_id, brisk("go", assistant_id=ASKING))
    ids = questions(one, thread_id)

    def answer(at: tuple[int, str]) -> httpx.Response:
        i, name = at
        return (one, other)[i % 2].post(f"/threads/{thread_id}/runs/wait", json=resumes({ids[name]: i}, assistant_id=ASKING))

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(answer, enumerate(["left", "right"] * 3)))

    accepted = [i for i, response in enumerate(answers) if response.status_code == 200]
    assert sorted(i % 2 for i in accepted) == [0, 1]
    left, right = sorted(accepted, key=lambda i: i % 2)
    assert texts(one.get(f"/threads/{thread_id}").json()["values"]) == ["go", "begun", f"left: {left}", f"right: {right}", "finished"]


def test_a_question_that_is_asked_again_can_be_answered_again(one: httpx.Client) -> None:
    """The first answer was of no use to the node, which says so in its next question."""
    thread_id = new_thread(one)
    wait(one, thread_id, brisk("go", assistant_id=ASKING))
    ids = questions(one, thread_id)
    asked = wait(one, thread_id, resumes({ids["left"]: "again", ids["right"]: "no"}, assistant_id=ASKING))["__interrupt__"]
    assert [question["value"] for question in asked] == [{"question": "left", "error": "again"}]

    values = wait(one, thread_id, resumes({asked[0]["id"]: "yes"}, assistant_id=ASKING))

    assert texts(values) == ["go", "begun", "left: yes", "right: no", "finished"]


def test_an_answer_whose_run_was_cancelled_may_be_given_again(one: httpx.Client) -> None:
    """It waited behind another run and never began, so nobody has answered."""
    thread_id, question = refund(one)
    body = resumes({question: "first"}, after_seconds=3600)
    first = one.post(f"/threads/{thread_id}/runs", json=body).raise_for_status().json()
    refused = one.post(f"/threads/{thread_id}/runs/wait", json=resumes({question: "second"}))
    one.post(f"/threads/{thread_id}/runs/{first['run_id']}/cancel", params={"wait": 1}).raise_for_status()

    values = wait(one, thread_id, resumes({question: "second"}))

    assert (refused.status_code, refused.json()["code"]) == (409, "interrupt_answered")
    assert texts(values)[-1] == "order 7: second"


@pytest.mark.parametrize(("where", "following"), [("interrupt_before", ["slow"]), ("interrupt_after", ["slow", "echo"])])
def test_a_run_stops_where_it_is_told_and_another_goes_on(one: httpx.Client, other: httpx.Client, where: str, following: list[str]) -> None:
    """What has been done is not done again: the subgraph before the stop speaks once."""
    thread_id = new_thread(one)
    node = "slow" if where == "interrupt_before" else "look_up"
    wait(one, thread_id, brisk("slow please", **{where: [node]}))
    thread = one.get(f"/threads/{thread_id}").json()

    _, came = stream(other, f"/threads/{thread_id}/runs/stream", {"assistant_id": "brisk", "input": None, "stream_mode": ["updates"]})

    assert (thread["status"], thread["interrupts"]) == ("interrupted", {})
    assert [name for event in came if event.name == "updates" for name in event.data] == ["slow"] * 24 + ["echo"]
    assert one.get(f"/threads/{thread_id}").json()["status"] == "idle"


def test_a_stateless_run_that_asks_can_be_answered(one: httpx.Client) -> None:
    """Its thread is in `Content-Location` and stays until it has been answered."""
    with one.stream("POST", "/runs/stream", json=brisk("refund order 7")) as response:
        path = response.headers["content-location"]
        response.read()
    thread_id = path.split("/")[2]

    assert one.get(f"/threads/{thread_id}").json()["status"] == "interrupted"
    assert texts(wait(one, thread_id, resumes("yes"))) == ["refund order 7", "order 7: yes"]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_completion_that_asks_a_human_says_so_to_the_customer(one: httpx.Client, streams: bool) -> None:
    """The content is the question's notice, and the thread in `Content-Location` takes the human's answer."""
    body = {"model": ASKING, "messages": [{"role": "user", "content": "go"}], "stream": streams}
    response = one.post("/v1/chat/completions", json=body).raise_for_status()
    if streams:
        *lines, last = [line.removeprefix("data: ") for line in response.text.split("\n\n")[:-1]]
        assert last == "[DONE]"
        content = "".join(choice["delta"].get("content", "") for line in lines for choice in json.loads(line)["choices"])
    else:
        content = response.json()["choices"][0]["message"]["content"]
    thread_id = response.headers["content-location"].split("/")[2]
    ids = questions(one, thread_id)
    values = wait(one, thread_id, resumes(dict.fromkeys(ids.values(), "yes"), assistant_id=ASKING))

    assert content.endswith("somebody is asked: left")
    assert texts(values)[-1] == "finished"


def test_a_question_survives_a_crash(tmp_path: Path) -> None:
    """Killed between question and answer: the next process resumes, and the first question's run is as it was."""
    fleet = Fleet(tmp_path, None, LEASE_SECONDS="1", EXECUTION="local")
    try:
        first = fleet.gateway(EXECUTION="local")
        with httpx.Client(base_url=first.url, timeout=60) as http:
            thread_id, question = refund(http)
            (run,) = http.get(f"/threads/{thread_id}/runs").json()
        first.kill()
        with httpx.Client(base_url=fleet.gateway(EXECUTION="local").url, timeout=60) as http:
            values = wait(http, thread_id, resumes({question: "yes"}))
            came = follow(http, f"/threads/{thread_id}/runs/{run['run_id']}/stream", -1)
    finally:
        fleet.close()

    assert texts(values) == ["refund order 7", "order 7: yes"]
    assert [event.name for event in came if event.name in TERMINAL] == ["end"]
