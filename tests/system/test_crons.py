"""Crons over HTTP, as the real clients of the protocol send them, and ticking for real on two processes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import httpx
import pytest
from langgraph_sdk import get_client, get_sync_client

from tests.support.fleet import wait_until
from tests.support.protocol import brisk, follow, new_thread
from tests.support.service import ROOT, Service
from tests.system.conftest import StartService

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
YEARLY = "0 0 1 1 *"
UNKNOWN = str(uuid4())
FIELDS = {
    *("cron_id", "assistant_id", "thread_id", "on_run_completed", "end_time", "schedule", "timezone", "created_at", "updated_at"),
    *("payload", "user_id", "next_run_date", "metadata", "enabled", "ended_by", "last_error"),
}


def made(http: httpx.Client, thread_id: str | None = None, **fields: Any) -> dict[str, Any]:
    """A new cron that is not due while the test runs."""
    path = f"/threads/{thread_id}/runs/crons" if thread_id else "/runs/crons"
    body = {"assistant_id": "supervisor", "schedule": YEARLY, "input": HELLO, **fields}
    cron: dict[str, Any] = http.post(path, json=body).raise_for_status().json()
    return cron


def code(answer: httpx.Response) -> tuple[int, str]:
    assert isinstance(answer.json()["detail"], str)
    return answer.status_code, answer.json()["code"]


@pytest.fixture
def clean(http: httpx.Client) -> Iterator[httpx.Client]:
    """A service without crons, before and after."""
    yield http
    for cron in http.post("/runs/crons/search", json={"limit": 1000}).json():
        http.delete(f"/runs/crons/{cron['cron_id']}").raise_for_status()


# --- the real clients


def test_the_example_of_the_page_runs(offline_service: Service) -> None:
    """Of docs/crons.md, as it stands; only the port is the test's own."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/crons.md").read_text("utf-8"), re.DOTALL)
    assert code is not None
    example = code[1].replace("http://localhost:8000", offline_service.url)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "morning" in done.stdout


def test_the_sdk_does_all_of_it(clean: httpx.Client) -> None:
    """Every call of the synchronous client."""
    thread_id = new_thread(clean)
    with get_sync_client(url=str(clean.base_url)) as client:
        crons = client.crons
        first: Any = crons.create("supervisor", schedule="30 6 * * *", input=HELLO, timezone=ZoneInfo("Asia/Tokyo"), metadata={"team": "a"})
        second: Any = crons.create_for_thread(
            thread_id, first["assistant_id"], schedule=YEARLY, input=HELLO, multitask_strategy="interrupt"
        )
        assert first.keys() == second.keys() == FIELDS
        assert (first["thread_id"], first["on_run_completed"], first["timezone"]) == (None, "delete", "Asia/Tokyo")
        assert datetime.fromisoformat(first["next_run_date"]).astimezone(UTC).strftime("%H:%M") == "21:30"
        assert (second["thread_id"], second["on_run_completed"], second["metadata"]) == (thread_id, None, {})
        assert second["payload"] == {"assistant_id": first["assistant_id"], "input": HELLO, "multitask_strategy": "interrupt"}

        assert [cron["cron_id"] for cron in crons.search()] == [second["cron_id"], first["cron_id"]]
        assert crons.search(thread_id=thread_id) == crons.search(limit=1) == [second]
        assert crons.search(metadata={"team": "a"}) == crons.search(offset=1) == [first]
        assert crons.search(assistant_id="supervisor", sort_by="created_at", sort_order="asc") == [first, second]
        assert crons.search(enabled=False) == []
        assert crons.search(sort_by="thread_id", sort_order="asc", select=["cron_id", "thread_id"]) == [
            {"cron_id": second["cron_id"], "thread_id": thread_id},
            {"cron_id": first["cron_id"], "thread_id": None},
        ]
        assert (crons.count(), crons.count(thread_id=thread_id), crons.count(assistant_id=UNKNOWN)) == (2, 1, 0)

        end = datetime.now(UTC) + timedelta(days=900)
        changed = crons.update(first["cron_id"], schedule="0 7 * * *", end_time=end, enabled=False, on_run_completed="keep")
        assert (changed["schedule"], changed["enabled"], changed["next_run_date"]) == ("0 7 * * *", False, None)
        assert (changed["timezone"], changed["metadata"], changed["on_run_completed"]) == ("Asia/Tokyo", {"team": "a"}, "keep")
        assert crons.search(enabled=False) == [changed]
        changed = crons.update(first["cron_id"], end_time=None, enabled=True, timezone="UTC", metadata={"team": "b"}, interrupt_after="*")
        assert (changed["end_time"], changed["metadata"], changed["payload"]["interrupt_after"]) == (None, {"team": "b"}, "*")
        assert datetime.fromisoformat(str(changed["next_run_date"])).strftime("%H:%M") == "07:00"
        for cron in (first, second):
            crons.delete(cron["cron_id"])
        assert crons.count() == 0


async def test_the_asynchronous_sdk_does_so_too(clean: httpx.Client) -> None:
    async with get_client(url=str(clean.base_url)) as client:
        cron: Any = await client.crons.create(
            "supervisor",
            schedule=YEARLY,
            input=HELLO,
            config={"tags": ["nightly"], "recursion_limit": 5},
            interrupt_before=["respond"],
            interrupt_after=["supervise"],
            on_run_completed="keep",
            enabled=False,
            stream_mode=["values", "updates"],
            stream_subgraphs=True,
            stream_resumable=True,
            durability="sync",
        )
        assert await client.crons.search() == [cron]
        assert await client.crons.count(metadata={"a": 1}) == 0
        assert (await client.crons.update(cron["cron_id"], enabled=True))["next_run_date"] is not None
        await client.crons.delete(cron["cron_id"])


def test_the_flag_says_that_there_are_crons(http: httpx.Client) -> None:
    assert http.get("/info").json()["flags"]["crons"] is True


# --- ticking


def test_each_second_starts_one_run_on_two_processes(one: httpx.Client, other: httpx.Client) -> None:
    """A run per tick, none twice, none left out; the run is what the cron's body says; `enabled: false` stops it."""
    thread_id = new_thread(one)
    body = brisk("tick", schedule="* * * * * *", metadata={"kind": "cron"}, stream_resumable=True)
    cron = other.post(f"/threads/{thread_id}/runs/crons", json=body).raise_for_status().json()

    def runs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = one.get(f"/threads/{thread_id}/runs", params={"limit": 100}).raise_for_status().json()
        return found

    wait_until(lambda: len(runs()) >= 4, 30)
    stopped = one.patch(f"/runs/crons/{cron['cron_id']}", json={"enabled": False}).raise_for_status().json()
    assert stopped["next_run_date"] is None
    wait_until(lambda: all(run["status"] == "success" for run in runs()), 30)
    ended = runs()
    ticks = sorted(datetime.fromisoformat(run["metadata"]["cron_tick"]) for run in ended)
    assert len(set(ticks)) == len(ticks)
    assert all(tick.microsecond == 0 for tick in ticks)
    assert {(run["metadata"]["cron_id"], run["metadata"]["kind"]) for run in ended} == {(cron["cron_id"], "cron")}
    values = one.get(f"/threads/{thread_id}/state").json()["values"]["messages"]
    assert [message["content"] for message in values] == ["tick", "tick"] * len(ended)
    one.delete(f"/runs/crons/{cron['cron_id']}").raise_for_status()


def test_a_cron_without_a_thread_ends_by_itself(one: httpx.Client, other: httpx.Client) -> None:
    """`end_time` is the last time; what it started is told of by its metadata alone, on threads of its own."""
    end = datetime.now(UTC) + timedelta(seconds=2)
    body = brisk("once", schedule="* * * * * *", end_time=end.isoformat(), on_run_completed="keep")
    cron = one.post("/runs/crons", json=body).raise_for_status().json()

    def found() -> dict[str, Any]:
        [entry] = [entry for entry in other.post("/runs/crons/search", json={"limit": 100}).json() if entry["cron_id"] == cron["cron_id"]]
        return dict(entry)

    wait_until(lambda: found()["ended_by"] is not None, 30)
    assert (found()["ended_by"], found()["next_run_date"], found()["last_error"]) == ("end_time", None, None)
    one.delete(f"/runs/crons/{cron['cron_id']}").raise_for_status()


def test_the_body_of_a_cron_is_the_body_of_its_runs(one: httpx.Client, other: httpx.Client) -> None:
    """It stops where it was told to, and its log has the modes that were asked for, and stays."""
    thread_id = new_thread(one)
    wishes = {"interrupt_before": ["echo"], "stream_mode": "updates", "stream_resumable": True, "multitask_strategy": "reject"}
    cron = one.post(f"/threads/{thread_id}/runs/crons", json=brisk("stop", schedule="* * * * * *", **wishes)).raise_for_status().json()
    wait_until(lambda: one.get(f"/threads/{thread_id}").json()["status"] == "interrupted", 30)
    one.delete(f"/runs/crons/{cron['cron_id']}").raise_for_status()
    run = one.get(f"/threads/{thread_id}/runs").json()[-1]

    assert one.get(f"/threads/{thread_id}/state").json()["next"] == ["echo"]
    assert run["multitask_strategy"] == "reject"
    names = {event.name for event in follow(other, f"/threads/{thread_id}/runs/{run['run_id']}/stream", -1)}
    assert names == {"metadata", "updates", "end"}


# --- refused


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schedule": "every day"}, (422, "invalid_schedule")),
        ({"schedule": "* * * * * * *"}, (422, "invalid_schedule")),
        ({"schedule": ""}, (422, "invalid_input")),
        ({"schedule": "0 0 30 2 *"}, (422, "never_due")),
        ({"timezone": "Mars/Olympus"}, (422, "invalid_timezone")),
        ({"end_time": "2020-01-01T00:00:00"}, (422, "never_due")),
        ({"end_time": "soon"}, (422, "invalid_input")),
        ({"assistant_id": "nobody"}, (422, "assistant_not_found")),
        ({"assistant_id": UNKNOWN}, (404, "assistant_not_found")),
        ({"input": {"messages": [{"role": "nobody", "content": "x"}]}}, (422, "invalid_input")),
        ({"config": {"recursion_limit": 0}}, (422, "invalid_input")),
        ({"metadata": {"a": "x" * 40_000}}, (422, "cron_too_large")),
        ({"metadata": []}, (422, "invalid_input")),
        ({"interrupt_before": ["nowhere"]}, (422, "invalid_input")),
        ({"interrupt_after": ["nowhere"]}, (422, "invalid_input")),
        ({"webhook": "https://example.com"}, (422, "webhook_not_configured")),
        ({"multitask_strategy": "wait"}, (422, "invalid_input")),
        ({"stream_mode": "everything"}, (422, "invalid_input")),
        ({"stream_subgraphs": "perhaps"}, (422, "invalid_input")),
        ({"stream_resumable": 7}, (422, "invalid_input")),
        ({"durability": "maybe"}, (422, "invalid_input")),
        ({"enabled": "perhaps"}, (422, "invalid_input")),
        ({"on_run_completed": "shout"}, (422, "invalid_input")),
    ],
)
def test_a_cron_that_could_not_run_is_refused(clean: httpx.Client, change: dict[str, Any], expected: tuple[int, str]) -> None:
    """When it is made and, but for the assistant and what is about time alone, when it is changed; nothing is written."""
    body = {"assistant_id": "supervisor", "schedule": YEARLY, "input": HELLO, **change}
    assert code(clean.post("/runs/crons", json=body)) == expected
    assert clean.post("/runs/crons/count", json={}).json() == 0
    if change.keys() & {"assistant_id"} or expected[1] == "never_due":
        return
    cron = made(clean)
    assert code(clean.patch(f"/runs/crons/{cron['cron_id']}", json=change)) == expected
    [unchanged] = clean.post("/runs/crons/search", json={}).json()
    assert unchanged == cron


def test_a_cron_needs_its_thread(http: httpx.Client) -> None:
    body = {"assistant_id": "supervisor", "schedule": YEARLY, "input": HELLO}
    assert code(http.post(f"/threads/{UNKNOWN}/runs/crons", json=body)) == (404, "thread_not_found")


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_cron_that_does_not_exist_is_404(http: httpx.Client, method: str) -> None:
    assert code(http.request(method, f"/runs/crons/{UNKNOWN}", json={})) == (404, "cron_not_found")
    assert http.request(method, "/runs/crons/7", json={}).status_code == 422


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"limit": 0},
            {"limit": 1001},
            {"offset": -1},
            {"sort_by": "schedule"},
            {"sort_order": "up"},
            {"select": ["kwargs"]},
            {"select": []},
        ),
        *({"thread_id": "7"}, {"metadata": 7}, {"enabled": "perhaps"}),
    ],
)
def test_a_search_that_cannot_be_answered_is_refused(http: httpx.Client, change: dict[str, Any]) -> None:
    assert code(http.post("/runs/crons/search", json=change)) == (422, "invalid_input")


def test_a_search_says_where_the_next_page_begins(clean: httpx.Client) -> None:
    crons = [made(clean)["cron_id"] for _ in range(3)]
    page = clean.post("/runs/crons/search", json={"limit": 2, "sort_order": "asc"})
    assert (page.headers["x-pagination-next"], [cron["cron_id"] for cron in page.json()]) == ("2", crons[:2])
    rest = clean.post("/runs/crons/search", json={"limit": 2, "offset": 2, "sort_order": "asc"})
    assert "x-pagination-next" not in rest.headers
    assert [cron["cron_id"] for cron in rest.json()] == crons[2:]


def test_a_foreign_cron_is_a_missing_one(start_service: StartService) -> None:
    service = start_service(API_KEYS="k1:acme,k2:globex")
    with (
        httpx.Client(base_url=service.url, headers={"x-api-key": "k1"}) as ours,
        httpx.Client(base_url=service.url, headers={"x-api-key": "k2"}) as theirs,
    ):
        cron = made(ours)
        for method in ("PATCH", "DELETE"):
            assert code(theirs.request(method, f"/runs/crons/{cron['cron_id']}", json={})) == (404, "cron_not_found")
        assert code(
            theirs.post(f"/threads/{new_thread(ours)}/runs/crons", json={**brisk("x"), "assistant_id": "supervisor", "schedule": YEARLY})
        ) == (
            404,
            "thread_not_found",
        )
        assert theirs.post("/runs/crons/search", json={}).json() == []
        assert (ours.post("/runs/crons/count", json={}).json(), theirs.post("/runs/crons/count", json={}).json()) == (1, 0)
