"""Webhooks without a network: which are taken, what they say, how they are signed, and where they may go."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.runs.public_http import AddressRefused, AllowedHosts, PublicOnlyTransport, is_public
from app.runs.webhooks import MAX_BODY, MAX_URL, WebhookRefused, WebhookSecrets, check_url, check_webhook, sign, webhook_body

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdefghijklmn").decode()
OTHER = "whsec_" + base64.b64encode(b"another secret of 32 bytes, long").decode()
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ANYWHERE = AllowedHosts()


class Recorder(httpx.AsyncBaseTransport):
    """Stands for the network: remembers requests, and refuses connections to the addresses it is told to."""

    def __init__(self, *dead: str) -> None:
        self.requests: list[httpx.Request] = []
        self._dead = dead

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.host in self._dead:
            raise httpx.ConnectError("refused")
        return httpx.Response(204)


def names(*answers: Sequence[str]):
    """A resolver that gives these answers, one after the other."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return left.pop(0)

    return resolve


def post(url: str = "https://hooks.example.com/a?b=c") -> httpx.Request:
    return httpx.Request("POST", url, content=b"{}")


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/a?b=c#d", "http://example.com:8080", "https://8.8.8.8/x", "https://[2606:4700::1111]/"]
)
def test_an_absolute_url_of_the_internet_is_taken(url):
    """Names and public addresses, with any port."""
    check_url(url, ANYWHERE)


@pytest.mark.parametrize(
    "url",
    [
        *("", "/hook", "//example.com/x", "example.com", "ftp://example.com/", "file:///etc/passwd", "http:///x", "http://example.com:0/"),
        *("http://example.com:99999/", "http://user:word@example.com/", "http://user@example.com/", "http://a\\@example.com/"),
        *("http://exa\nmple.com/", f"https://example.com/{'x' * MAX_URL}"),
    ],
)
def test_a_url_that_is_not_plain_http_is_refused(url):
    """Relative, another scheme, credentials, nonsense: 422 at once."""
    with pytest.raises(WebhookRefused) as caught:
        check_url(url, ANYWHERE)

    assert (caught.value.status, caught.value.code) == (422, "webhook_refused")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST.", "api.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "0", "10.0.0.1"),
        *(
            "169.254.169.254",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
            "[fd00:ec2::254]",
            "[fe80::1%25eth0]",
            "[64:ff9b::7f00:1]",
        ),
    ],
)
def test_a_literal_address_that_is_not_public_is_refused_at_once(host):
    """However it is spelled."""
    with pytest.raises(WebhookRefused):
        check_url(f"http://{host}/hook", ANYWHERE)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "168.63.129.16", "169.254.169.254", "172.16.0.1"),
        *("192.0.0.192", "192.168.1.1", "192.88.99.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *(
            "::",
            "::1",
            "::7f00:1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
        ),
        *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
    ],
)
def test_an_address_of_no_public_network_is_known(address):
    """Private, shared, loopback, link-local, metadata, multicast, reserved, documentation, and IPv6 forms of these."""
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_known(address):
    """Of either version, and IPv4 inside IPv6."""
    assert is_public(address)


def test_an_allowed_host_may_be_anywhere():
    """By name or address, with or without a port; what is not listed stays refused."""
    allowed = AllowedHosts.parse("hooks.internal, 10.0.0.7:8080, [::1]:80")

    for url in ("http://hooks.internal:9/", "https://HOOKS.internal./", "http://10.0.0.7:8080/", "http://[::1]/"):
        check_url(url, allowed)
    for url in ("http://10.0.0.7/", "http://10.0.0.7:8081/", "https://[::1]/", "http://10.0.0.8:8080/"):
        with pytest.raises(WebhookRefused):
            check_url(url, allowed)


@pytest.mark.parametrize("text", ["http://x", "a/b", "a:99999", "u@a", "a b:c", ":80", "a?b", "::1"])
def test_a_list_of_hosts_that_cannot_be_meant_is_refused(text):
    """The fault names the entry."""
    with pytest.raises(ValueError, match="entry 2 must be host"):
        AllowedHosts.parse(f"fine.example,{text}")


def test_a_tenant_without_a_secret_has_no_webhooks():
    """What cannot be signed is refused, with a code of its own."""
    secrets = WebhookSecrets.parse(f"acme:{SECRET}")

    check_webhook("https://example.com/", "acme", ANYWHERE, secrets)
    with pytest.raises(WebhookRefused) as caught:
        check_webhook("https://example.com/", "globex", ANYWHERE, secrets)

    assert (caught.value.status, caught.value.code) == (422, "webhook_not_configured")


def test_a_tenants_own_secret_stands_before_the_common_one():
    """Nobody else's secret signs for a tenant that has its own; several of one tenant are all used."""
    secrets = WebhookSecrets.parse(f"{SECRET}, acme:{OTHER}, acme:{SECRET}")

    assert secrets.of("globex") == (b"0123456789abcdefghijklmn",)
    assert secrets.of("acme") == (b"another secret of 32 bytes, long", b"0123456789abcdefghijklmn")
    assert "0123" not in repr(secrets)


@pytest.mark.parametrize("text", ["hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!", "whsec_ü", "acme:", f"whsec_{'A' * 88}"])
def test_a_secret_that_is_none_is_refused_without_repeating_it(text):
    """Too short, too long, not base64, without its prefix."""
    with pytest.raises(ValueError, match="entry 1 must be whsec_ and 24 to 64 bytes") as caught:
        WebhookSecrets.parse(text)

    assert text.removeprefix("whsec_") not in str(caught.value) or text in ("whsec_", "acme:")


def test_a_signature_is_what_the_specification_says():
    """The example that the reference libraries of Standard Webhooks test themselves with."""
    (secret,) = WebhookSecrets.parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").of("any")

    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_body_is_the_run_and_how_it_ended():
    """The run's own fields, its times, its values; an error only where there is one."""
    body = json.loads(webhook_body({"run_id": "r", "status": "success"}, started_at=NOW, ended_at=NOW, values={"answer": "42"}))

    assert body == {
        "run_id": "r",
        "status": "success",
        "run_started_at": "2026-11-21T12:00:00+00:00",
        "run_ended_at": "2026-11-21T12:00:00+00:00",
        "values": {"answer": "42"},
    }
    failed = json.loads(webhook_body({"status": "error"}, started_at=None, ended_at=NOW, values=None, error={"code": "x"}))
    assert failed["error"] == {"code": "x"}


def test_values_that_are_too_long_are_left_out():
    """Receivers read them from the thread; the body says that they are missing."""
    body = webhook_body({"run_id": "r"}, started_at=NOW, ended_at=NOW, values={"answer": "x" * MAX_BODY})

    assert len(body) < 1000
    assert json.loads(body)["values"] is None
    assert json.loads(body)["values_omitted"] is True


async def test_the_checked_address_is_the_one_connected_to():
    """The name is looked up once; it stays in the Host header and in the TLS handshake."""
    network = Recorder()
    transport = PublicOnlyTransport(network, ANYWHERE, names(["8.8.8.8"]))

    await transport.handle_async_request(post())

    (request,) = network.requests
    assert str(request.url) == "https://8.8.8.8/a?b=c"
    assert request.headers["host"] == "hooks.example.com"
    assert request.extensions["sni_hostname"] == "hooks.example.com"


async def test_a_name_that_turns_private_is_refused_when_it_is_connected_to():
    """What it was at acceptance, or a moment ago, does not count."""
    network = Recorder()
    transport = PublicOnlyTransport(network, ANYWHERE, names(["8.8.8.8"], ["169.254.169.254"]))
    check_url("https://hooks.example.com/", ANYWHERE)
    await transport.handle_async_request(post())

    with pytest.raises(AddressRefused):
        await transport.handle_async_request(post())

    assert len(network.requests) == 1


async def test_of_several_addresses_only_public_ones_are_tried():
    """In their order, until one answers."""
    network = Recorder("1.1.1.1")
    transport = PublicOnlyTransport(network, ANYWHERE, names(["10.0.0.1", "1.1.1.1", "::1", "8.8.8.8", "9.9.9.9"]))

    response = await transport.handle_async_request(post())

    assert response.status_code == 204
    assert [request.url.host for request in network.requests] == ["1.1.1.1", "8.8.8.8"]


async def test_a_host_that_answers_nowhere_is_out_of_reach():
    """Which may pass, unlike a refused address."""
    transport = PublicOnlyTransport(Recorder("1.1.1.1"), ANYWHERE, names(["1.1.1.1", "10.0.0.1"]))

    with pytest.raises(httpx.ConnectError):
        await transport.handle_async_request(post())


async def test_a_name_that_does_not_exist_is_out_of_reach():
    """A resolver's failure is a failure to connect."""

    async def fail(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    with pytest.raises(httpx.ConnectError):
        await PublicOnlyTransport(Recorder(), ANYWHERE, fail).handle_async_request(post())


async def test_an_allowed_host_is_connected_to_wherever_it_is():
    """Its address is pinned all the same; another port of it is not allowed."""
    network = Recorder()
    transport = PublicOnlyTransport(network, AllowedHosts.parse("hooks.internal:8080"), names(["10.0.0.7"], ["10.0.0.7"]))

    await transport.handle_async_request(post("http://hooks.internal:8080/"))
    with pytest.raises(AddressRefused):
        await transport.handle_async_request(post("http://hooks.internal:9090/"))

    assert [str(request.url) for request in network.requests] == ["http://10.0.0.7:8080/"]


def test_the_documented_check_accepts_what_is_genuine_and_nothing_else():
    """The example of docs/webhooks.md, run as it stands there."""
    text = (Path(__file__).parents[4] / "docs/webhooks.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    (key,) = WebhookSecrets.parse(SECRET).of("acme")
    headers = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": f"v1,AAAA {sign(key, 'msg_1', 1, b'{}')}"}

    assert names["is_genuine"](SECRET, headers, b"{}")
    assert not names["is_genuine"](SECRET, headers, b"{} ")
    assert not names["is_genuine"](OTHER, headers, b"{}")
