"""Webhooks: which a run may name, what they say and how it is signed (ADR-0014)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import httpx

from app.errors import AppError
from app.runs.public_http import AllowedHosts, host_of, is_public, literal_address, port_of
from app.threads.plain import to_json

MAX_URL = 2_048
MAX_BODY = 1024 * 1024
"""Longest body, bytes; a longer one is sent without `values`."""


class WebhookRefused(AppError):
    """The webhook cannot be taken: its URL is not one we send to, or the service has nothing to sign with."""

    code = "webhook_refused"
    status = 422


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """What deliveries are signed with.

    Args:
        by_tenant: The secrets of each tenant, the empty name standing for all that are not named; several are all used,
            so that receivers can change from one to the next.
    """

    by_tenant: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The secrets of a list like `whsec_…` or `acme:whsec_…,globex:whsec_…`.

        Raises:
            ValueError: An entry is none; its text is not repeated.
        """
        found: dict[str, tuple[bytes, ...]] = {}
        for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), start=1):
            tenant, _, secret = entry.rpartition(":")
            try:
                key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            except ValueError:
                key = b""
            if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
                raise ValueError(f"entry {number} must be whsec_ and 24 to 64 bytes in base64, or tenant: and that")
            found[tenant] = (*found.get(tenant, ()), key)
        return cls(found)

    def of(self, tenant: str) -> tuple[bytes, ...]:
        """The tenant's secrets; empty: it has none."""
        return self.by_tenant.get(tenant) or self.by_tenant.get("", ())


def check_url(url: str, allowed: AllowedHosts) -> None:
    """Return if deliveries to `url` may be promised. Where its host leads is checked when it is connected to.

    Raises:
        WebhookRefused: It is not an absolute http(s) URL without credentials, or it names an address that is not public.
    """
    try:
        parsed = httpx.URL(url if len(url) <= MAX_URL else "")
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    host = host_of(parsed)
    if parsed.scheme not in ("http", "https") or not host or not 0 < port_of(parsed) < 65536:
        raise WebhookRefused(f"webhook must be an absolute http or https URL of at most {MAX_URL} characters")
    if parsed.userinfo:
        raise WebhookRefused("webhook must not hold a user name or password")
    if parsed in allowed:
        return
    literal = literal_address(host)
    if host == "localhost" or host.endswith(".localhost") or (literal is not None and not is_public(literal)):
        raise WebhookRefused("webhook must be an address of the public internet; the operator can allow others by WEBHOOK_ALLOW_HOSTS")


def check_webhook(url: str, tenant: str, allowed: AllowedHosts, secrets: WebhookSecrets) -> None:
    """Return if the tenant's run may name `url`.

    Raises:
        WebhookRefused: It may not; with the code `webhook_not_configured` if there is no secret to sign with.
    """
    if not secrets.of(tenant):
        raise WebhookRefused("webhooks are not configured: the operator has to set WEBHOOK_SECRET", "webhook_not_configured")
    check_url(url, allowed)


def webhook_body(
    run: Mapping[str, Any],
    *,
    started_at: datetime | None,
    ended_at: datetime,
    values: Any,
    error: Mapping[str, Any] | None = None,
) -> bytes:
    """What a webhook says, but for `webhook_sent_at`, which each attempt adds.

    Args:
        run: The run as callers see it, with its final status.
        started_at: When it began to execute; None: it never did.
        ended_at: When it ended.
        values: The state's final values.
        error: Why it failed, if it did.
    """
    said = {**run, "run_started_at": started_at, "run_ended_at": ended_at, "values": values}
    if error is not None:
        said["error"] = error
    body = to_json(said)
    return body if len(body) <= MAX_BODY else to_json({**said, "values": None, "values_omitted": True})


def sign(secret: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The signature of one delivery. Source: Standard Webhooks 1.0.0, "Signature scheme"."""
    signed = hmac.digest(secret, b"%s.%d.%s" % (webhook_id.encode(), timestamp, body), hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"
