"""What people say of answers: kept with the run, counted, and told to Langfuse."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from app.storage.redis.feedback import MAX_KEYS
from tests.support.langfuse_receiver import LangfuseReceiver
from tests.support.protocol import new_thread, says, some_id
from tests.support.service import Service
from tests.system.conftest import StartService

QUESTION = "What does a transfer cost?"


def run_path(http: httpx.Client) -> str:
    """The path of a run that has ended."""
    response = http.post(f"/threads/{new_thread(http)}/runs/wait", json=says(QUESTION)).raise_for_status()
    path: str = response.headers["content-location"]
    return path


def counted(http: httpx.Client) -> dict[str, float]:
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith("capataz_feedback_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def test_feedback_is_given_changed_and_read(http: httpx.Client) -> None:
    """One entry per key; a changed mind replaces it and keeps the time of the first."""
    path = f"{run_path(http)}/feedback"

    first = http.post(path, json={"key": "user_score", "score": 1, "comment": ' "created_at":"1999" '}).raise_for_status().json()
    changed = http.post(path, json={"key": "user_score", "score": 0, "comment": "wrong fee"}).raise_for_status().json()
    http.post(path, json={"key": "tone", "score": 0.5}).raise_for_status()

    assert first["comment"] == '"created_at":"1999"'
    assert (changed["score"], changed["comment"], changed["created_at"]) == (0, "wrong fee", first["created_at"])
    assert changed["updated_at"] > first["updated_at"]
    assert [(said["key"], said["score"]) for said in http.get(path).json()] == [("tone", 0.5), ("user_score", 0)]


def test_a_word_is_counted_when_it_is_new_or_changes(http: httpx.Client) -> None:
    """Saying the same again is not another opinion."""
    path = f"{run_path(http)}/feedback"
    before = counted(http)

    for score in (1, 1, 0, 0, 0.5):
        http.post(path, json={"key": "user_score", "score": score}).raise_for_status()

    after = counted(http)
    assert {verdict: after[verdict] - before.get(verdict, 0) for verdict in after} == {"good": 1, "bad": 1, "mixed": 1}


@pytest.mark.parametrize(
    "body",
    [
        {"key": "k"}, {"score": 1}, {"key": "k", "score": 1.1}, {"key": "k", "score": -1}, {"key": "k", "score": "nan"},
        {"key": "", "score": 1}, {"key": "a b", "score": 1}, {"key": "k" * 65, "score": 1}, {"key": "k", "score": 1, "comment": "x" * 2001},
    ],
    ids=str,
)  # fmt: skip
def test_malformed_feedback_is_a_422(http: httpx.Client, body: dict[str, Any]) -> None:
    """And nothing is kept."""
    path = f"{run_path(http)}/feedback"

    answer = http.post(path, json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert http.get(path).json() == []


def test_a_run_has_only_so_many_keys(http: httpx.Client) -> None:
    """A further one is refused; those that are there can still change."""
    path = f"{run_path(http)}/feedback"
    for i in range(MAX_KEYS):
        http.post(path, json={"key": f"k{i}", "score": 1}).raise_for_status()

    refused = http.post(path, json={"key": "one-more", "score": 1})

    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_feedback_keys")
    assert http.post(path, json={"key": "k0", "score": 0}).status_code == 200
    assert len(http.get(path).json()) == MAX_KEYS


def test_feedback_belongs_to_its_run(http: httpx.Client) -> None:
    """Without the run there is none: unknown, of another thread, deleted. The run itself reads as before."""
    path = run_path(http)
    run_id, run = path.rsplit("/", 1)[1], http.get(path).json()
    http.post(f"{path}/feedback", json={"key": "k", "score": 1}).raise_for_status()

    assert http.get(path).json() == run
    foreign = [f"/threads/{new_thread(http)}/runs/{run_id}/feedback", f"{path.rsplit('/', 1)[0]}/{some_id()}/feedback"]
    http.delete(path).raise_for_status()
    for missing in (*foreign, f"{path}/feedback"):
        for answer in (http.get(missing), http.post(missing, json={"key": "k", "score": 1})):
            assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found")


def test_a_score_reaches_the_trace_of_its_run(start_service: StartService) -> None:
    """Under the run's trace, with personal data masked; a changed mind has the same id; one that hangs holds nobody up."""
    with LangfuseReceiver() as receiver:
        service: Service = start_service(LANGFUSE_PUBLIC_KEY="pk-test", LANGFUSE_SECRET_KEY="sk-test", LANGFUSE_BASE_URL=receiver.url)
        with httpx.Client(base_url=service.url, timeout=60) as http:
            path = f"{run_path(http)}/feedback"
            http.post(path, json={"key": "user_score", "score": 1}).raise_for_status()
            http.post(path, json={"key": "user_score", "score": 0, "comment": "ask ana.perez@example.com"}).raise_for_status()
            http.post(path, json={"key": "user_score", "score": 0, "comment": "ask ana.perez@example.com"}).raise_for_status()
        assert service.stop() == 0
        spans = receiver.wait(lambda spans: any(span.name == "supervisor" for span in spans))
        first, second = receiver.scores()

    assert {score["traceId"] for score in (first, second)} == {span.trace_id for span in spans}
    assert first["id"] == second["id"]
    assert [(score["name"], score["value"], score["dataType"]) for score in (first, second)] == [
        ("user_score", 1.0, "NUMERIC"),
        ("user_score", 0.0, "NUMERIC"),
    ]
    assert "ana.perez" not in second["comment"]
    assert second["comment"].startswith("ask ")
