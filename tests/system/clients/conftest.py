from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet, Member
from tests.support.webhook_receiver import WebhookReceiver

KEY = "key-of-acme"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    """Where `served` may send webhooks."""
    with WebhookReceiver() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, receiver: WebhookReceiver) -> Iterator[Member]:
    """A gateway that wants `KEY`: the supervisor, and graphs that are slow, fail, ask and stream on demand."""
    webhooks = {"WEBHOOK_ALLOW_HOSTS": f"127.0.0.1:{receiver.port}", "WEBHOOK_SECRET": SECRET}
    access = {"API_KEYS": f"{KEY}:acme", "RATE_LIMIT_RPM": "0"}
    fleet = Fleet(tmp_path_factory.mktemp("clients"), None, EXECUTION="local", LEASE_SECONDS="2", **access, **webhooks)
    try:
        yield fleet.gateway(EXECUTION="local", hangs=True)
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def key() -> str:
    """The key that the gateway wants."""
    return KEY
