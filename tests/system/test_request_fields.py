"""What single fields of a request do, where no other test says it; tests/contracts/fields.toml names a test for every field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from app.storage.redis.connection import connect_blocking
from app.storage.redis.embedded import EmbeddedRedis
from app.storage.redis.keys import ThreadKeys
from tests.support.fleet import Fleet, wait_until
from tests.support.protocol import brisk, new_thread, stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fields")


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[httpx.Client]:
    fleet = Fleet(folder, None, RATE_LIMIT_RPM="0")
    try:
        with httpx.Client(base_url=fleet.gateway(EXECUTION="local", step=0.01).url, timeout=60) as client:
            yield client
    finally:
        fleet.close()


def wait(http: httpx.Client, thread_id: str, body: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = http.post(f"/threads/{thread_id}/runs/wait", json=body).raise_for_status().json()
    return values


def states(http: httpx.Client, thread_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.post(f"/threads/{thread_id}/history", json={"limit": 100}).raise_for_status().json()
    return found


def redis_of(folder: Path) -> Redis:
    found: Redis = connect_blocking(EmbeddedRedis(folder / "data").url, timeout=10.0)
    return found


def test_the_id_of_a_request_is_taken_over(http: httpx.Client) -> None:
    """Harmless text only: it goes into a header and into the log."""
    named = http.get("/ok", headers={"x-request-id": "order-7:try.2"})
    strange = http.get("/ok", headers={"x-request-id": "a b"})

    assert named.headers["x-request-id"] == "order-7:try.2"
    assert len(strange.headers["x-request-id"]) == 32


@pytest.mark.parametrize("stream_subgraphs", [True, False])
def test_events_of_subgraphs_come_if_they_are_wanted(http: httpx.Client, stream_subgraphs: bool) -> None:
    """Their names have the path of the subgraph behind a bar."""
    body = brisk("hello", stream_mode=["updates", "custom"], stream_subgraphs=stream_subgraphs)
    _, events = stream(http, f"/threads/{new_thread(http)}/runs/stream", body)

    inner = [event for event in events if "|" in event.name]
    assert bool(inner) is stream_subgraphs
    if inner:
        assert {event.name.split(":")[0] for event in inner} == {"updates|look_up", "custom|look_up"}
        assert [event.data for event in inner if event.name.startswith("custom")] == [{"looked_up": "hello"}]


def test_the_state_of_a_subgraph_is_read_with_that_of_its_graph_or_by_its_path(http: httpx.Client) -> None:
    """With `subgraphs` it stands in its task; without, the task names it, and the name can be asked for."""
    thread_id = new_thread(http)
    wait(http, thread_id, brisk("hello"))
    before = next(state for state in states(http, thread_id) if state["next"] == ["look_up"])
    path = f"/threads/{thread_id}/state/{before['checkpoint_id']}"

    (named,) = http.get(path).json()["tasks"]
    (whole,) = http.get(path, params={"subgraphs": True}).json()["tasks"]
    asked = {"checkpoint": before["checkpoint"], "subgraphs": True}
    (same,) = http.post(f"/threads/{thread_id}/state/checkpoint", json=asked).json()["tasks"]
    inner = {"checkpoint": {"checkpoint_ns": named["checkpoint"]["checkpoint_ns"]}}
    alone = http.post(f"/threads/{thread_id}/state/checkpoint", json=inner).json()
    of_subgraph = http.post(f"/threads/{thread_id}/history", json={"limit": 10, **inner}).json()

    assert named["checkpoint"]["checkpoint_ns"].startswith("look_up:")
    assert named["state"] is None
    assert whole["state"]["values"]["notes"] == ["hello"]
    assert same["state"] == whole["state"]
    assert alone["values"] == whole["state"]["values"]
    assert alone["checkpoint"]["checkpoint_ns"] == named["checkpoint"]["checkpoint_ns"]
    assert of_subgraph[0]["values"] == alone["values"]


def test_the_latest_state_has_its_subgraphs_too(http: httpx.Client) -> None:
    """A run that stops before its subgraph: the task's state is there, and it is empty."""
    thread_id = new_thread(http)
    wait(http, thread_id, brisk("hello", interrupt_before=["look_up"]))

    (named,) = http.get(f"/threads/{thread_id}/state").json()["tasks"]
    (whole,) = http.get(f"/threads/{thread_id}/state", params={"subgraphs": True}).json()["tasks"]

    assert named["state"] is None
    assert whole["state"]["values"] == {}


def test_durability_decides_how_many_states_are_kept(http: httpx.Client) -> None:
    """`exit` writes one checkpoint at the end of the run, the others one after each step; the values are the same."""
    found = {}
    for durability in ("sync", "async", "exit"):
        thread_id = new_thread(http)
        wait(http, thread_id, brisk("hello", durability=durability))
        found[durability] = states(http, thread_id)

    assert {kind: len(kept) for kind, kept in found.items()} == {"sync": 4, "async": 4, "exit": 1}
    last = [[message["content"] for message in kept[0]["values"]["messages"]] for kept in found.values()]
    assert last == [["hello", "hello"]] * 3


@pytest.mark.parametrize("on_completion", ["keep", "delete"])
def test_the_thread_of_a_run_without_one_is_kept_if_that_is_wanted(http: httpx.Client, folder: Path, on_completion: str) -> None:
    """Otherwise it lives as long as its log: long enough to read how the run ended."""
    answer = http.post("/runs/wait", json=brisk("hello", on_completion=on_completion)).raise_for_status()
    thread_id = answer.headers["content-location"].split("/")[2]

    key, redis = ThreadKeys("default", thread_id).thread(), redis_of(folder)
    if on_completion == "keep":
        assert http.get(f"/threads/{thread_id}").json()["status"] == "idle"
        assert redis.ttl(key) > 24 * 3600
    else:
        wait_until(lambda: 0 < redis.ttl(key) <= 60, 10, lambda: f"{key} has {redis.ttl(key)} s left")


def test_a_run_may_be_given_fewer_supersteps_than_its_graph(http: httpx.Client) -> None:
    """It ends with an error of its own code."""
    values = wait(http, new_thread(http), brisk("slow please", config={"recursion_limit": 5}))

    assert values["__error__"]["code"] == "recursion_limit"


def test_tags_are_on_what_the_run_streams(http: httpx.Client) -> None:
    """Whoever reads events or traces finds them by the words that the caller gave."""
    body = brisk("hello", config={"tags": ["campaign-7"]}, stream_mode=["messages-tuple"])
    _, events = stream(http, f"/threads/{new_thread(http)}/runs/stream", body)

    tags = [event.data[1]["tags"] for event in events if event.name == "messages"]
    assert tags
    assert all("campaign-7" in given for given in tags)


def test_a_command_goes_to_the_node_that_it_names(http: httpx.Client) -> None:
    """What comes before that node is left out."""
    thread_id = new_thread(http)
    wait(http, thread_id, brisk("hello"))

    body = {"assistant_id": "brisk", "command": {"goto": "echo"}, "stream_mode": ["updates"]}
    _, events = stream(http, f"/threads/{thread_id}/runs/stream", body)

    assert [list(event.data) for event in events if event.name == "updates"] == [["echo"]]


@pytest.mark.parametrize(("stream_resumable", "seconds"), [(True, 24 * 3600), (False, 60)])
def test_a_log_outlives_its_run_as_long_as_is_wanted(http: httpx.Client, folder: Path, stream_resumable: bool, seconds: int) -> None:
    """A minute is enough for a cut connection, a day for a closed laptop."""
    thread_id = new_thread(http)
    _, events = stream(http, f"/threads/{thread_id}/runs/stream", brisk("hello", stream_resumable=stream_resumable))

    left = redis_of(folder).ttl(ThreadKeys("default", thread_id).events(events[0].data["run_id"]))
    assert seconds - 30 < left <= seconds


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
def test_many_runs_are_removed_if_that_is_wanted(http: httpx.Client, action: str) -> None:
    """`rollback` leaves nothing of them, `interrupt` their records and what they had written."""
    thread_id = new_thread(http)
    wait(http, thread_id, brisk("hello"))
    run_id = http.post(f"/threads/{thread_id}/runs", json=brisk("hello", after_seconds=3600)).json()["run_id"]

    body = {"thread_id": thread_id, "run_ids": [run_id]}
    answer = http.post("/runs/cancel", params={"action": action}, json=body)

    assert answer.status_code == 204
    found = http.get(f"/threads/{thread_id}/runs/{run_id}")
    assert (found.status_code == 404) if action == "rollback" else (found.json()["status"] == "interrupted")


def test_assistants_are_paged_and_found_by_name(http: httpx.Client) -> None:
    """Every page is the next part of the same list; a part of the name is enough."""

    def search(**wanted: Any) -> tuple[list[str], str | None]:
        answer = http.post("/assistants/search", json=wanted).raise_for_status()
        return [assistant["name"] for assistant in answer.json()], answer.headers.get("x-pagination-next")

    everything, _ = search(limit=100)
    first, after = search(limit=2)
    second, _ = search(limit=2, offset=2)
    beyond, end = search(limit=2, offset=len(everything))

    assert len(everything) > 3
    assert (first + second, after) == (everything[:4], "2")
    assert (beyond, end) == ([], None)
    assert search(name="BRIS")[0] == ["brisk"]


def test_a_model_is_read_by_its_name(http: httpx.Client) -> None:
    """An assistant's name, or there is none."""
    found, missing = [http.get(f"/v1/models/{model_id}") for model_id in ("brisk", "gpt-x")]

    assert found.json()["id"] == "brisk"
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_a_subgraph_is_described_by_its_namespace(http: httpx.Client) -> None:
    """Of one that the graph does not have there is nothing to say, `recurse` or not."""
    assistant_id = http.post("/assistants/search", json={"graph_id": "brisk"}).json()[0]["assistant_id"]
    path = f"/assistants/{assistant_id}/subgraphs"
    found = {namespace: http.get(f"{path}/{namespace}", params={"recurse": True}).json() for namespace in ("look_up", "nowhere")}

    assert found["look_up"].keys() == {"look_up"}
    assert "notes" in str(found["look_up"]["look_up"])
    assert found["nowhere"] == {}
    assert http.get(path).json().items() > found["look_up"].items()


def test_the_runs_of_a_cron_go_by_its_context(http: httpx.Client) -> None:
    """Only the specialist that the context names may answer."""
    thread_id = new_thread(http)
    body = {"assistant_id": "supervisor", "input": {"messages": [{"role": "user", "content": "Why was I charged a fee for my transfer?"}]}}
    context = {"specialists": ["technical_support"]}
    cron = (
        http.post(f"/threads/{thread_id}/runs/crons", json={**body, "context": context, "schedule": "* * * * * *"})
        .raise_for_status()
        .json()
    )
    wait_until(lambda: bool((http.get(f"/threads/{thread_id}").json()["values"] or {}).get("answer")), 30)
    http.delete(f"/runs/crons/{cron['cron_id']}").raise_for_status()

    assert http.get(f"/threads/{thread_id}/state").json()["values"]["specialist"] != "billing_support"
    assert wait(http, new_thread(http), body)["specialist"] == "billing_support"
