"""Webhooks over a real Redis and a real network: signed, at least once, never where they must not go, never lost unseen."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from random import Random

import httpx
import pytest

from app.runs.public_http import AllowedHosts, PublicOnlyTransport, Resolve, resolve
from app.runs.webhook_sender import ATTEMPTS, FIRST_WAIT, LONGEST_WAIT, SHARE, WebhookEvent, WebhookSender
from app.runs.webhooks import WebhookSecrets
from app.storage.redis.connection import connect
from app.storage.redis.webhooks import ClaimedWebhook, Webhook, WebhookOutbox
from tests.support.webhook_receiver import Answer, WebhookReceiver, verify

SECRET = "whsec_" + base64.b64encode(b"a secret for tests of 32 bytes!!").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"the secret that was before this").decode()
HANGS = Answer(hangs=True)
LEASE = 30.0


class Time:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_795_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Highest(Random):
    """Jitter at its upper end, so that waits are known."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.fixture
def now():
    return Time()


@pytest.fixture
def outbox(redis_client, now):
    return WebhookOutbox(redis_client, lease=LEASE, now=now)


@pytest.fixture
def sending(outbox, now):
    """A sender that runs while the `with` block lasts, and the queue of what it tells."""

    @contextlib.asynccontextmanager
    async def start(
        *allowed: WebhookReceiver, secrets: str = SECRET, timeout: float = 5.0, resolve: Resolve = resolve
    ) -> AsyncIterator[asyncio.Queue[WebhookEvent]]:
        events: asyncio.Queue[WebhookEvent] = asyncio.Queue()
        hosts = AllowedHosts.parse(",".join(f"127.0.0.1:{receiver.port}" for receiver in allowed))
        sender = WebhookSender(
            outbox,
            WebhookSecrets.parse(secrets),
            allowed=hosts,
            listener=events.put_nowait,
            timeout=timeout,
            poll=0.005,
            resolve=resolve,
            rng=Highest(),
            now=now,
        )
        task = asyncio.create_task(sender.run())
        try:
            yield events
        finally:
            await stop(task)

    return start


def webhook(url: str, run_id: str = "run-1", tenant: str = "acme") -> Webhook:
    return Webhook(tenant, run_id, "thread-1", url, b'{"run_id":"%s","status":"success"}' % run_id.encode())


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done, "the sender does not stop"


async def heard(events: asyncio.Queue[WebhookEvent]) -> WebhookEvent:
    async with asyncio.timeout(10):
        return await events.get()


async def claim(outbox: WebhookOutbox, limit: int = 100) -> list[ClaimedWebhook]:
    return await outbox.claim(limit=limit, share=100, busy={})


async def test_a_delivery_is_signed_and_says_what_was_put(outbox, sending, now):
    """The receiver verifies it with the specification alone, and knows when it was sent."""
    with WebhookReceiver() as receiver:
        async with sending(receiver) as events:
            await outbox.put(webhook(receiver.url))
            event = await heard(events)

    assert event == WebhookEvent("delivered", "acme", "run-1", 1)
    (request,) = receiver.requests
    assert verify(request, SECRET, now())
    assert not verify(request, OLD_SECRET, now())
    assert request.id == "msg_run-1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.said == {"run_id": "run-1", "status": "success", "webhook_sent_at": "2026-11-18T11:06:40+00:00"}


async def test_two_secrets_sign_every_delivery(outbox, sending, now):
    """Receivers with the old one and with the new one both believe it."""
    with WebhookReceiver() as receiver:
        async with sending(receiver, secrets=f"{SECRET},{OLD_SECRET}") as events:
            await outbox.put(webhook(receiver.url))
            await heard(events)

    assert verify(receiver.requests[0], SECRET, now())
    assert verify(receiver.requests[0], OLD_SECRET, now())


async def test_a_failure_is_tried_again_later_under_the_same_id(outbox, sending, now):
    """Not before its time, and with a fresh timestamp and signature."""
    with WebhookReceiver(Answer(500)) as receiver:
        async with sending(receiver) as events:
            await outbox.put(webhook(receiver.url))
            assert await heard(events) == WebhookEvent("failed", "acme", "run-1", 1, "status_500")
            now.seconds += FIRST_WAIT - 1
            assert await claim(outbox) == []
            now.seconds += 1
            assert await heard(events) == WebhookEvent("delivered", "acme", "run-1", 2)

    first, second = receiver.requests
    assert first.id == second.id
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == FIRST_WAIT
    assert verify(second, SECRET, now())


async def test_a_receiver_that_hangs_costs_one_attempt(outbox, sending, now):
    """It is given up after the attempt's time and tried again later."""
    with WebhookReceiver(HANGS) as receiver:
        async with sending(receiver, timeout=0.1) as events:
            await outbox.put(webhook(receiver.url))
            assert (await heard(events)).why == "timeout"
            now.seconds += FIRST_WAIT
            assert await heard(events) == WebhookEvent("delivered", "acme", "run-1", 2)


async def test_what_the_receiver_asks_for_wins(outbox, sending, now):
    """`Retry-After` sets the wait, up to the longest of our own."""
    answers = [Answer(429, (("retry-after", "3"),)), Answer(503, (("retry-after", "86400"),))]
    with WebhookReceiver(*answers) as receiver:
        async with sending(receiver) as events:
            await outbox.put(webhook(receiver.url))
            assert (await heard(events)).why == "status_429"
            now.seconds += 3
            assert (await heard(events)).why == "status_503"
            now.seconds += LONGEST_WAIT
            assert (await heard(events)).kind == "delivered"


async def test_the_last_failure_makes_a_dead_letter(outbox, sending, now):
    """After five attempts the tenant can see that, where to and why; nobody else can."""
    with WebhookReceiver(*[Answer(500)] * ATTEMPTS) as receiver:
        async with sending(receiver) as events:
            await outbox.put(webhook(receiver.url))
            kinds = []
            for _ in range(ATTEMPTS):
                kinds.append((await heard(events)).kind)
                now.seconds += LONGEST_WAIT

    assert kinds == ["failed"] * (ATTEMPTS - 1) + ["dead"]
    (letter,) = await outbox.dead_letters("acme", 10)
    assert (letter.run_id, letter.thread_id, letter.url) == ("run-1", "thread-1", receiver.url)
    assert (letter.attempts, letter.why) == (ATTEMPTS, "status_500")
    assert letter.at.timestamp() == now() - LONGEST_WAIT
    assert await outbox.dead_letters("globex", 10) == []
    assert await claim(outbox) == []


async def test_dead_letters_are_listed_newest_first(outbox):
    """At most as many as were asked for."""
    for number in range(3):
        await outbox.put(webhook("https://example.com", f"run-{number}"))
        (claimed,) = await claim(outbox)
        await outbox.bury(claimed, "gone")

    assert [letter.run_id for letter in await outbox.dead_letters("acme", 2)] == ["run-2", "run-1"]


async def test_gone_means_stop(outbox, sending):
    """410 ends it at the first attempt, visibly."""
    with WebhookReceiver(Answer(410)) as receiver:
        async with sending(receiver) as events:
            await outbox.put(webhook(receiver.url))
            assert await heard(events) == WebhookEvent("dead", "acme", "run-1", 1, "status_410")

    assert [letter.why for letter in await outbox.dead_letters("acme", 10)] == ["status_410"]


async def test_a_redirect_is_a_failure_and_is_not_followed(outbox, sending):
    """Wherever it leads, a private address included."""
    with WebhookReceiver() as private, WebhookReceiver(Answer(307, (("location", private.url),))) as receiver:
        async with sending(receiver, private) as events:
            await outbox.put(webhook(receiver.url))
            assert await heard(events) == WebhookEvent("failed", "acme", "run-1", 1, "status_307")

        assert private.requests == []


async def test_a_name_that_leads_inside_is_given_up_at_once(outbox, sending):
    """Nothing is sent, however public the name was when it was accepted."""

    async def inside(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    with WebhookReceiver() as receiver:
        async with sending(resolve=inside) as events:
            await outbox.put(webhook(f"http://hooks.example.com:{receiver.port}/"))
            assert await heard(events) == WebhookEvent("dead", "acme", "run-1", 1, "address_refused")

        assert receiver.requests == []


async def test_the_real_resolver_does_not_lead_inside_either(outbox, sending):
    """A spelling of loopback that only resolvers understand."""
    with WebhookReceiver() as receiver:
        async with sending() as events:
            await outbox.put(webhook(f"http://127.1:{receiver.port}/"))
            assert (await heard(events)).why == "address_refused"

        assert receiver.requests == []


async def test_a_proxy_of_the_environment_is_not_used(outbox, sending, monkeypatch):
    """A proxy would connect to whatever it likes."""
    with WebhookReceiver() as proxy, WebhookReceiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with sending(receiver) as events:
            await outbox.put(webhook(receiver.url))
            assert (await heard(events)).kind == "delivered"

        assert proxy.requests == []


async def test_nobody_listening_is_a_failure_that_may_pass(outbox, sending):
    """A receiver that is being restarted is tried again."""
    with WebhookReceiver() as receiver:
        url = receiver.url
    async with sending(receiver) as events:
        await outbox.put(webhook(url))
        assert await heard(events) == WebhookEvent("failed", "acme", "run-1", 1, "unreachable")


async def test_an_endless_answer_is_not_read(outbox, sending):
    """The status decides; the connection is closed on the rest."""
    with WebhookReceiver(Answer(200, is_endless=True)) as receiver:
        async with sending(receiver) as events:
            await outbox.put(webhook(receiver.url))
            assert (await heard(events)).kind == "delivered"
            assert await asyncio.to_thread(receiver.given_up.wait, 10)

    assert receiver.written < 16 * 1024 * 1024  # what fits into the sockets' buffers


async def test_a_run_is_told_once_however_often_it_is_put(outbox, sending):
    """Before it was sent and after."""
    with WebhookReceiver() as receiver:
        assert await outbox.put(webhook(receiver.url))
        assert not await outbox.put(webhook(receiver.url))
        async with sending(receiver) as events:
            await heard(events)
        assert not await outbox.put(webhook(receiver.url))

    assert await claim(outbox) == []
    assert len(receiver.requests) == 1


async def test_two_senders_deliver_each_run_once(outbox, sending):
    """They share the work."""
    runs = {f"run-{number}" for number in range(30)}
    with WebhookReceiver() as receiver:
        async with sending(receiver) as one, sending(receiver) as other:
            for run_id in runs:
                await outbox.put(webhook(receiver.url, run_id))
            await asyncio.to_thread(receiver.wait, len(runs))
        told = one.qsize() + other.qsize()

    assert {request.id for request in receiver.requests} == {f"msg_{run_id}" for run_id in runs}
    assert len(receiver.requests) == len(runs)
    assert told <= len(runs)


async def test_what_a_killed_process_was_sending_is_sent_again(outbox, sending, now, redis_url):
    """Under the same id, once its claim has ended, by any other process; the kill costs no attempt."""
    with WebhookReceiver(HANGS) as receiver:
        await outbox.put(webhook(receiver.url))
        command = [sys.executable, "-m", "tests.support.webhook_process", redis_url, SECRET, f"127.0.0.1:{receiver.port}", str(now())]
        process = await asyncio.create_subprocess_exec(*command)
        try:
            await asyncio.to_thread(receiver.wait, 1)
        finally:
            process.kill()
            await process.wait()
        now.seconds += LEASE - 1
        assert await claim(outbox) == []
        async with sending(receiver) as events:
            now.seconds += 1
            assert await heard(events) == WebhookEvent("delivered", "acme", "run-1", 1)

    first, second = receiver.requests
    assert first.id == second.id


async def test_a_claim_that_ran_out_changes_nothing(outbox, now):
    """Its late failure neither postpones nor buries what another process is sending; its late success counts."""
    await outbox.put(webhook("https://example.com"))
    (late,) = await claim(outbox)
    now.seconds += LEASE
    (current,) = await claim(outbox)

    assert not await outbox.retry(late, 1.0)
    assert not await outbox.bury(late, "status_500")
    assert await outbox.delivered(late)
    assert not await outbox.retry(current, 1.0)
    assert not await outbox.delivered(current)
    now.seconds += LEASE
    assert await claim(outbox) == []
    assert await outbox.dead_letters("acme", 10) == []


async def test_a_tenant_whose_receivers_hang_delays_nobody_else(outbox, sending):
    """It fills its own share; the others are served meanwhile."""
    with WebhookReceiver(*[HANGS] * 20) as hanging, WebhookReceiver() as receiver:
        async with sending(hanging, receiver) as events:
            for number in range(20):
                await outbox.put(webhook(hanging.url, f"slow-{number}"))
            await asyncio.to_thread(hanging.wait, SHARE)
            await outbox.put(webhook(receiver.url, tenant="globex"))
            assert await heard(events) == WebhookEvent("delivered", "globex", "run-1", 1)

        assert len(hanging.requests) == SHARE


async def test_the_sender_survives_an_outage_of_redis(own_redis, now):
    """It goes on when Redis is back."""
    client = connect(own_redis.url)
    outbox = WebhookOutbox(client, now=now)
    events: asyncio.Queue[WebhookEvent] = asyncio.Queue()
    with WebhookReceiver() as receiver:
        allowed = AllowedHosts.parse(f"127.0.0.1:{receiver.port}")
        sender = WebhookSender(outbox, WebhookSecrets.parse(SECRET), allowed=allowed, listener=events.put_nowait, poll=0.01, now=now)
        await asyncio.to_thread(own_redis.kill)
        task = asyncio.create_task(sender.run())
        await asyncio.to_thread(own_redis.start)
        await outbox.put(webhook(receiver.url))
        assert (await heard(events)).kind == "delivered"
        await stop(task)
    await client.aclose()


async def test_a_sender_stops_whenever_it_is_told_to(outbox):
    """Also in the middle of a command to Redis, where Python 3.11 can lose a cancellation."""
    for turns in range(40):
        task = asyncio.create_task(WebhookSender(outbox, WebhookSecrets.parse(SECRET), poll=0.0).run())
        for _ in range(turns):
            await asyncio.sleep(0)
        await stop(task)


async def test_nothing_stays_for_ever(outbox, redis_client):
    """Every key has an end."""
    await outbox.put(webhook("https://example.com", "run-1"))
    await outbox.put(webhook("https://example.com", "run-2"))
    (first, _) = await claim(outbox)
    await outbox.bury(first, "gone")

    names = await redis_client.keys("*")

    assert len(names) == 5
    assert all([await redis_client.pttl(name) > 0 for name in names])


@pytest.fixture
def certificate(tmp_path):
    """A self-signed certificate of hooks.example.com and its key, in one file."""
    path = tmp_path / "hooks.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=hooks.example.com", "-addext", "subjectAltName=DNS:hooks.example.com"]
    subprocess.run([*command, *names, "-keyout", path, "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    return path


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("host", ["hooks.example.com", "other.example.com"])
async def test_tls_is_with_the_name_and_not_with_the_address(certificate, host):
    """The handshake asks for the name, and a certificate of another name is not accepted."""
    asked: list[str | None] = []
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    server_side.sni_callback = lambda _, name, __: asked.append(name)
    client_side = ssl.create_default_context(cafile=certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    async def loopback(name: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    transport = PublicOnlyTransport(httpx.AsyncHTTPTransport(verify=client_side), AllowedHosts.parse(host), loopback)
    async with server, transport:
        request = httpx.Request("POST", f"https://{host}:{port}/", content=b"{}")
        if host == "hooks.example.com":
            assert (await transport.handle_async_request(request)).status_code == 204
        else:
            with pytest.raises(httpx.ConnectError, match="certificate"):
                await transport.handle_async_request(request)

    assert asked == [host]
