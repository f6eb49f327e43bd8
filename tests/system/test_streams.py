"""Streams that are cut, joined, silent, slow or many: what a reader sees is the run's log, whatever happens to connections."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.support.engine_process import STICKY
from tests.support.fleet import Member, wait_until
from tests.support.ports import free_port
from tests.support.protocol import TERMINAL, brisk, events, follow, new_thread

MODES = ["values", "updates", "messages-tuple", "custom"]
HEARTBEAT = b": heartbeat"
CADENCE = 5.0
"""Seconds between two heartbeats, as docs/streams.md promises."""
LIMIT = 3 * CADENCE
READERS, STREAMS = (60, 1_000) if os.environ.get("CHAOS") == "full" else (30, 200)


def frames(response: httpx.Response) -> Iterator[bytes]:
    """The frames of a stream as they come, heartbeats too, without the empty line after each."""
    rest = b""
    for part in response.iter_raw():
        *whole, rest = (rest + part).split(b"\n\n")
        yield from whole


def event_id(frame: bytes) -> int:
    return int(frame.rpartition(b"\nid: ")[2])


def is_terminal(frame: bytes) -> bool:
    return frame.partition(b"\n")[0].removeprefix(b"event: ").decode() in TERMINAL


def resumed(http: httpx.Client, path: str, after: int) -> list[bytes]:
    """All events after one, as a client gets them that comes back."""
    with http.stream("GET", f"{path}/stream", headers={"last-event-id": str(after)}) as response:
        return [frame for frame in frames(response) if frame != HEARTBEAT]


def test_a_stream_resumed_after_any_event_is_the_unbroken_one(one: httpx.Client, other: httpx.Client) -> None:
    """Byte for byte, from the process that executed the run and from one that did not."""
    body = brisk("slow please", stream_mode=MODES, stream_resumable=True)
    with one.stream("POST", f"/threads/{new_thread(one)}/runs/stream", json=body) as response:
        path = response.headers["content-location"]
        unbroken = [frame for frame in frames(response) if frame != HEARTBEAT]

    ids = [event_id(frame) for frame in unbroken]
    assert ids == sorted(set(ids))
    assert [is_terminal(frame) for frame in unbroken] == [False] * (len(unbroken) - 1) + [True]
    for http in (one, other):
        assert resumed(http, path, -1) == unbroken
        for i, seen in enumerate(ids):
            assert resumed(http, path, seen) == unbroken[i + 1 :]


def test_a_stream_that_is_cut_after_every_event_loses_and_repeats_nothing(one: httpx.Client, other: httpx.Client) -> None:
    """While the run goes on: each connection lives for one event, and the next goes to the other process."""
    body = brisk("slow please", stream_mode=MODES, stream_resumable=True)
    came: list[bytes] = []
    with one.stream("POST", f"/threads/{new_thread(one)}/runs/stream", json=body) as response:
        path = response.headers["content-location"]
        came.append(next(frames(response)))
    cuts = 0
    while not is_terminal(came[-1]):
        cuts += 1
        with (one, other)[cuts % 2].stream("GET", f"{path}/stream", headers={"last-event-id": str(event_id(came[-1]))}) as response:
            came.append(next(frame for frame in frames(response) if frame != HEARTBEAT))

    assert came == resumed(one, path, -1)
    assert cuts > 50


def test_who_joins_a_run_under_way_gets_its_end_and_its_values(one: httpx.Client, other: httpx.Client) -> None:
    """`join` the values, `join_stream` what is yet to come, in every process."""
    thread_id = new_thread(one)
    body = brisk("slow please", stream_mode=["custom"])
    run_id = one.post(f"/threads/{thread_id}/runs", json=body).raise_for_status().json()["run_id"]
    path = f"/threads/{thread_id}/runs/{run_id}"
    with one.stream("GET", f"{path}/stream", headers={"last-event-id": "-1"}) as response:
        next(event for event in events(response) if event.data.get("step") == 3)
    with ThreadPoolExecutor(4) as pool:
        joined = [pool.submit(lambda http=http: http.get(f"{path}/join").json()) for http in (one, other)]
        followed = [pool.submit(follow, http, f"{path}/stream") for http in (one, other)]

    values = one.get(f"/threads/{thread_id}").json()["values"]
    assert [future.result() for future in joined] == [values, values]
    for future in followed:
        came = future.result()
        assert [event.name for event in came if event.name in TERMINAL] == ["end"]
        assert 3 not in [event.data.get("step") for event in came]
        assert came[-2].data == {"step": 24, "of": 24}


def beats(http: httpx.Client, path: str, count: int) -> list[float]:
    """When the first heartbeats of a stream came, seconds."""
    times: list[float] = []
    with http.stream("GET", f"{path}/stream", headers={"last-event-id": "-1"}) as response:
        for frame in frames(response):
            if frame == HEARTBEAT:
                times.append(time.monotonic())
            if len(times) == count or is_terminal(frame):
                return times
    raise AssertionError("the stream ended without a terminal event")


def test_heartbeats_keep_their_cadence_during_long_silent_steps(one: httpx.Client, other: httpx.Client) -> None:
    """The run says nothing at all; both processes say that they are there, every five seconds."""
    thread_id = new_thread(one)
    run = one.post(f"/threads/{thread_id}/runs", json=brisk("hang", assistant_id=STICKY)).raise_for_status().json()
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        seen = [future.result() for future in [pool.submit(beats, http, path, 2) for http in (one, other)]]
    one.post(f"{path}/cancel", params={"wait": 1})

    for first, second in seen:
        assert CADENCE / 2 < second - first < LIMIT
        assert first - begun < LIMIT


# --- slow readers, many readers


@contextmanager
def not_reading(url: str, path: str) -> Iterator[None]:
    """A client that asks for a stream and reads none of it."""
    at = urlsplit(url)
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((at.hostname, at.port))
        silent.sendall(f"GET {path}/stream HTTP/1.1\r\nhost: x\r\nlast-event-id: -1\r\n\r\n".encode())
        yield


@pytest.mark.alone("two times are compared")
def test_readers_who_do_not_read_cost_no_memory_and_slow_nobody(pair: tuple[Member, Member], one: httpx.Client) -> None:
    """A run of some megabytes with many such readers takes about as long as without, and the service hardly grows."""
    words = " ".join(f"word-{i:05}" for i in range(1_500))

    def run_with(readers: int) -> tuple[float, float]:
        """Seconds that the run took, and megabytes that the service has grown by."""
        thread_id = new_thread(one)
        # An earlier run holds the thread until all readers are there.
        holder = one.post(f"/threads/{thread_id}/runs", json=brisk("hang", assistant_id=STICKY)).json()["run_id"]
        run = one.post(f"/threads/{thread_id}/runs", json=brisk(words, stream_mode=["messages", "values"], stream_resumable=True)).json()
        path = f"/threads/{thread_id}/runs/{run['run_id']}"
        service = psutil.Process(pair[0].pid)
        with ExitStack() as stack:
            for _ in range(readers):
                stack.enter_context(not_reading(pair[0].url, path))
            before = service.memory_info().rss
            began = time.monotonic()
            one.post(f"/threads/{thread_id}/runs/{holder}/cancel")
            size = sum(len(event.frame) for event in follow(one, f"{path}/stream", -1))
            took = time.monotonic() - began
            grown = (service.memory_info().rss - before) / 1e6
        print(f"{readers} readers who do not read: {took:.2f} s, {size / 1e6:.1f} MB each, grown by {grown:.1f} MB")  # noqa: T201
        return took, grown

    run_with(0)
    alone, grown_alone = run_with(0)
    crowded, grown = run_with(READERS)

    assert crowded < 3 * alone + 1
    assert grown < grown_alone + READERS * 1.5


async def _open(member: Member, bodies: list[bytes]) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    at = urlsplit(member.url)

    async def one(body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        head = f"POST /runs/stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        status = await reader.readuntil(b"\r\n")
        assert status.startswith(b"HTTP/1.1 200"), await reader.read()
        await reader.readuntil(b"event: metadata")
        return reader, writer

    return await asyncio.gather(*(one(body) for body in bodies))


async def test_many_streams_at_once_all_come_to_their_end(pair: tuple[Member, Member]) -> None:
    """Each follows a run of its own; all of them are open at the same time, and each gets one terminal event."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], min(limit[1], 4 * STREAMS)), limit[1]))
    began = time.monotonic()
    connections = await _open(pair[0], [json.dumps(brisk("hang", assistant_id=STICKY)).encode()] * STREAMS)
    opened = time.monotonic()
    async with httpx.AsyncClient(base_url=pair[1].url, timeout=60) as http:
        (await http.post("/runs/cancel", json={"status": "all"})).raise_for_status()
    ends = await asyncio.gather(*(reader.readuntil(b"\r\n0\r\n\r\n") for reader, _ in connections))
    print(f"{STREAMS} streams: open after {opened - began:.1f} s, ended {time.monotonic() - opened:.1f} s later")  # noqa: T201
    for _, writer in connections:
        writer.close()

    assert [end.count(b"event: end\n") for end in ends] == [1] * STREAMS


# --- behind a proxy


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; }} }}
}}
"""


@pytest.fixture
def behind_nginx(pair: tuple[Member, Member], tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of Debian's nginx, which is told nothing but whom to pass requests to."""
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(folder=tmp_path, port=port, upstream=pair[0].url))
    nginx = subprocess.Popen(["nginx", "-p", str(tmp_path), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until(lambda: _answers(client), 10.0)
            yield client
    finally:
        nginx.terminate()
        nginx.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ok").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.needs("nginx-light", program="nginx")
def test_nginx_with_its_defaults_keeps_nothing_back(behind_nginx: httpx.Client, one: httpx.Client) -> None:
    """Events arrive one by one, a reader who comes back gets the rest, heartbeats pass, and waiting is kept alive."""
    body = brisk("slow please", stream_mode=["custom"], stream_resumable=True)
    came: list[tuple[float, bytes]] = []
    with behind_nginx.stream("POST", f"/threads/{new_thread(one)}/runs/stream", json=body) as response:
        path = response.headers["content-location"]
        for frame in frames(response):
            came.append((time.monotonic(), frame))
    times = [at for at, frame in came if b'"step"' in frame]

    assert [frame for _, frame in came] == resumed(one, path, -1)
    assert resumed(behind_nginx, path, event_id(came[3][1])) == [frame for _, frame in came[4:]]
    # 24 steps of a twentieth of a second: what a buffer had kept would come at once.
    assert times[-1] - times[0] > 0.5

    silent = one.post(f"/threads/{new_thread(one)}/runs", json=brisk("hang", assistant_id=STICKY)).json()
    path = f"/threads/{silent['thread_id']}/runs/{silent['run_id']}"
    with ThreadPoolExecutor(1) as pool:
        beat = pool.submit(beats, behind_nginx, path, 1)
        with behind_nginx.stream("GET", f"{path}/join") as response:
            assert next(response.iter_raw()) == b"\n"
        assert len(beat.result(LIMIT)) == 1
    one.post(f"{path}/cancel")


def test_a_stream_is_sent_as_proxies_and_browsers_need_it(one: httpx.Client) -> None:
    """Nothing is cached or kept back, and the address to come back to is a path."""
    with one.stream("POST", f"/threads/{new_thread(one)}/runs/stream", json=brisk("hello")) as response:
        headers = response.headers
        response.read()

    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert headers["location"] == f"{headers['content-location']}/stream"
    assert headers["location"].startswith("/threads/")
