"""The service is killed in mid-run, as `make run` has it: when it is back, the run goes on, and so does its stream."""

from __future__ import annotations

import httpx

from tests.support.protocol import events, follow, new_thread
from tests.support.service import Service


def test_a_run_goes_on_after_the_service_was_killed(tmp_path):
    """The reader comes back with the last id it saw: every step is there, the state it continues from, and one end."""
    service = Service(tmp_path, as_command=True, CONFORMANCE_GRAPH="true", LEASE_SECONDS="1")
    body = {
        "assistant_id": "conformance",
        "input": {"messages": [{"role": "user", "content": "slow please"}]},
        "stream_mode": ["custom", "values"],
        "stream_resumable": True,
    }
    try:
        with httpx.Client(base_url=service.start().url, timeout=60) as http:
            thread_id = new_thread(http)
            with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
                seen = []
                for event in events(response):
                    seen.append(event)
                    if event.name == "custom" and event.data.get("step") == 5:
                        break
                service.kill()
        run_id = seen[0].data["run_id"]
        with httpx.Client(base_url=service.start().url, timeout=60) as http:
            seen += follow(http, f"/threads/{thread_id}/runs/{run_id}/stream", seen[-1].id)
            assert [event.data["attempt"] for event in seen if event.name == "metadata"] == [1, 2]
            assert [event.id for event in seen] == sorted({event.id for event in seen})
            steps = [event.data["step"] for event in seen if event.name == "custom" and "step" in event.data]
            assert set(steps) == set(range(1, 25))
            assert len(steps) <= 26, "it began anew instead of going on"
            assert [event.name for event in seen if event.name in ("end", "error")] == ["end"]
            assert seen[-1].data == {"run_id": run_id, "status": "success"}
            said = http.get(f"/threads/{thread_id}/state").json()["values"]["messages"]
            assert [message["type"] for message in said] == ["human", "ai"]
    finally:
        service.close()
