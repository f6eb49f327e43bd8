"""The connection to Redis: fails fast, heals by itself, never sends a command twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import pytest
from redis.exceptions import ResponseError

from app.storage.errors import LeaseLost, StorageUnavailable, StorageUnsuitable
from app.storage.redis.connection import check_server, connect, guarded, ping
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, short_directory


@pytest.fixture(params=["unix", "tcp"])
def restartable(request):
    """A server of the test's own, over each kind of socket."""
    with short_directory() as directory, RedisServer(directory, free_port() if request.param == "tcp" else 0) as server:
        yield server


@pytest.fixture
async def client(restartable):
    client = connect(restartable.url)
    yield client
    await client.aclose()


async def test_a_server_that_is_down_is_said_to_be_down_at_once(client, restartable):
    """No waiting, no retry: the caller learns it and when to come back."""
    await asyncio.to_thread(restartable.kill)
    started = time.perf_counter()

    with pytest.raises(StorageUnavailable) as caught:
        await ping(client)

    assert caught.value.retry_after > 0
    assert time.perf_counter() - started < 1


async def test_the_first_command_after_a_restart_works(client, restartable):
    """Connections that died in the pool are replaced when they are taken, not when a command has failed on them."""
    await asyncio.gather(*(ping(client) for _ in range(5)))
    await asyncio.to_thread(restartable.kill)
    await asyncio.to_thread(restartable.start)

    for _ in range(5):
        await ping(client)


async def test_a_script_is_loaded_again_after_a_restart(client, restartable):
    """A server that forgot our scripts gets them again."""
    script = client.register_script("return redis.call('INCR', KEYS[1])")
    assert await script(keys=["n"]) == 1
    await asyncio.to_thread(restartable.kill)
    await asyncio.to_thread(restartable.start)

    assert await script(keys=["n"]) == 1
    await client.script_flush()
    assert await script(keys=["n"]) == 2


async def test_a_lost_reply_is_not_a_reason_to_send_again():
    """The server answers nothing; the command reached it once."""
    received = []

    async def swallow(reader, writer):
        while data := await reader.read(4096):
            if b"HELLO" in data:
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            elif b"INCR" in data:
                received.append(data)
                writer.close()
                return

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(StorageUnavailable):
            with guarded():
                await client.incr("n")
        await client.aclose()

    assert len(received) == 1


async def test_a_silent_server_is_given_up_in_its_time():
    """A server that accepts and never answers costs the command's time and no more."""
    ended = asyncio.Event()

    async def silence(reader, writer):
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    async with server:
        client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", command_timeout=0.1, connect_timeout=0.1)
        with pytest.raises(StorageUnavailable):
            await ping(client)
        await client.aclose()
        await asyncio.wait_for(ended.wait(), 3)


async def test_a_full_pool_is_unavailability(redis_url):
    """Waiting for a free connection has a limit too."""
    client = connect(redis_url, max_connections=1, pool_timeout=0.05)
    held = await client.connection_pool.get_connection()

    with pytest.raises(StorageUnavailable):
        await ping(client)

    await client.connection_pool.release(held)
    await ping(client)
    await client.aclose()


async def test_answers_are_bytes(redis_client):
    """Nothing is decoded behind our back."""
    await redis_client.set("k", b"\xff\x00")

    assert await redis_client.get("k") == b"\xff\x00"


async def test_a_command_that_was_cancelled_leaves_the_client_usable(redis_client):
    """The half-used connection is not given to the next one."""
    waiting = asyncio.create_task(redis_client.blpop(["nothing"], timeout=1))
    while not (await redis_client.info("clients"))["blocked_clients"]:
        pass  # every look lets the other command go on
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting

    await redis_client.set("k", "v")
    assert await redis_client.get("k") == b"v"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("LOADING Redis is loading the dataset in memory", StorageUnavailable),
        ("READONLY You can't write against a read only replica.", StorageUnavailable),
        ("OOM command not allowed when used memory > 'maxmemory'.", StorageUnavailable),
        ("MISCONF Errors writing to the AOF file", StorageUnavailable),
        ("BUSY Redis is busy running a script.", StorageUnavailable),
        ("CLUSTERDOWN The cluster is down", StorageUnavailable),
        ("LEASELOST somebody else has it", LeaseLost),
    ],
)
async def test_what_the_server_says_of_itself_gets_our_name(redis_client, reply, kind):
    """Replies about the state of the server are unavailability; our scripts' refusal is a lost lease."""
    with pytest.raises(kind):
        with guarded():
            await redis_client.eval("return redis.error_reply(ARGV[1])", 0, reply)


async def test_a_fault_of_ours_keeps_its_name(redis_client):
    """A wrong command is a defect and not an outage."""
    await redis_client.set("k", "v")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        with guarded():
            await redis_client.lpush("k", "v")


async def test_a_server_of_our_age_is_accepted(redis_client):
    """6.2 and newer will do."""
    await check_server(redis_client)


async def test_an_old_server_is_refused_with_a_remedy():
    """The text says what to set."""

    async def old(reader, writer):
        while data := await reader.read(4096):
            if b"HELLO" in data:
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            elif b"INFO" in data:
                writer.write(b"$21\r\nredis_version:5.0.14\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(old, "127.0.0.1", 0)
    async with server:
        client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(StorageUnsuitable, match=r"5\.0\.14.*REDIS_URL"):
            await check_server(client)
        await client.aclose()


async def test_a_cancellation_is_never_lost(client):
    """A task that is cancelled in the middle of a command ends, wherever in the command it was."""
    rng = random.Random(7)

    async def forever():
        while True:
            await client.get("nothing")

    for _ in range(200):
        task = asyncio.create_task(forever())
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=2.0)
        assert done
        assert task.cancelled()


async def test_a_reply_that_came_while_the_event_loop_was_blocked_is_read(shared_redis):
    """Wherever between connecting and reading it is blocked: that nobody could look is not the server's silence."""
    for turns in range(12):
        client = connect(shared_redis.url, connect_timeout=0.05, command_timeout=0.05)
        reply = asyncio.create_task(client.execute_command("PING"))
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251  what is tested
        assert await reply
        await client.aclose()
