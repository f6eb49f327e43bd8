"""A service that is told to stop while readers read and runs run: everybody is told to come back, and nothing is lost."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.support.fleet import Fleet, Member, wait_until
from tests.support.protocol import TERMINAL, brisk, new_thread

EXIT = 25.0
"""Seconds within which the process must be gone."""


def frames_until_cut(member: Member, body: dict[str, object], has_begun: threading.Event) -> tuple[str, list[str]]:
    """The run's path, and the frames of its stream until that closes."""
    with httpx.Client(base_url=member.url, timeout=60) as http:
        with http.stream("POST", f"/threads/{new_thread(http)}/runs/stream", json=body) as response:
            text = ""
            for part in response.iter_text():
                text += part
                if '"step":3' in text:
                    has_begun.set()
            return response.headers["content-location"], text.split("\n\n")[:-1]


def test_a_drained_service_sends_its_readers_away_and_goes_on_after_its_restart(tmp_path: Path) -> None:
    """SIGTERM in mid-run: `retry: 1000` and no terminal event, nothing new, a quick exit; then the same stream to its end."""
    fleet = Fleet(tmp_path, None, LEASE_SECONDS="2")
    body = brisk("slow please", stream_mode=["custom", "updates"], stream_resumable=True)
    has_begun, came = threading.Event(), list[tuple[str, list[str]]]()
    try:
        service = fleet.gateway(EXECUTION="local", step=0.25)
        reader = threading.Thread(target=lambda: came.append(frames_until_cut(service, body, has_begun)))
        reader.start()
        assert has_begun.wait(15)
        service.send(signal.SIGTERM)
        told = time.monotonic()
        not_ready = wait_until(lambda: not service.is_ready(), 3.0)
        with pytest.raises(httpx.HTTPError), httpx.Client(base_url=service.url, timeout=5) as http:
            http.post("/runs", json=brisk("new")).raise_for_status()
        reader.join(3.0)
        assert not reader.is_alive()
        code = service.exit_code(EXIT)
        took = time.monotonic() - told
        ((path, frames),) = came

        with httpx.Client(base_url=fleet.gateway(EXECUTION="local").url, timeout=60) as http:
            last = frames[-2].rpartition("\nid: ")[2]
            rest = http.get(f"{path}/stream", headers={"last-event-id": last}).text.split("\n\n")[:-1]
            whole = http.get(f"{path}/stream", headers={"last-event-id": "-1"}).text.split("\n\n")[:-1]
            run = http.get(path).json()
            messages = http.get(path.partition("/runs")[0]).json()["values"]["messages"]
    finally:
        fleet.close()

    print(f"not ready after {not_ready:.2f} s, gone after {took:.2f} s")  # noqa: T201
    assert code == 0
    assert frames[-1] == "retry: 1000"
    assert not [frame for frame in frames if frame.split("\n")[0].removeprefix("event: ") in TERMINAL]
    assert [*frames[:-1], *rest] == whole
    assert [frame.split("\n")[0] for frame in whole].count("event: end") == 1
    assert whole[-1].startswith("event: end")
    assert run["status"] == "success"
    assert [message["content"] for message in messages] == ["slow please", "slow please"]
    steps = [frame for frame in whole if '"step":' in frame and frame.startswith("event: custom")]
    assert len(steps) in (24, 25)  # the superstep that was cut short, if one was, is done again


@pytest.mark.parametrize("kind", ["runs", "completions"])
def test_a_caller_who_waits_is_told_that_the_service_goes_down(tmp_path: Path, kind: str) -> None:
    """The connection of `wait` breaks, so that the client comes back by `Location`; a completion is a 503."""
    fleet = Fleet(tmp_path, None, LEASE_SECONDS="2")
    outcome: list[object] = []
    try:
        service = fleet.gateway(EXECUTION="local", step=0.5)

        def wait() -> None:
            with httpx.Client(base_url=service.url, timeout=60) as http:
                body = brisk("slow please")
                try:
                    if kind == "runs":
                        outcome.append(http.post("/runs/wait", json=body).text)
                    else:
                        completion = {"model": "brisk", "messages": [{"role": "user", "content": "slow please"}]}
                        outcome.append(http.post("/v1/chat/completions", json=completion))
                except httpx.RemoteProtocolError as exc:
                    outcome.append(exc)

        waiting = threading.Thread(target=wait)
        waiting.start()
        with httpx.Client(base_url=service.url, timeout=60) as http:
            wait_until(lambda: 'capataz_runs_active{graph="brisk"} 1.0' in http.get("/metrics").text, 15)
        service.send(signal.SIGTERM)
        waiting.join(5.0)
        code = service.exit_code(EXIT)
    finally:
        fleet.close()

    (got,) = outcome
    if kind == "runs":
        assert isinstance(got, httpx.RemoteProtocolError)
    else:
        assert isinstance(got, httpx.Response)
        assert (got.status_code, got.json()["error"]["code"]) == (503, "draining")
        assert got.headers["retry-after"]
    assert code == 0
