"""What routes are given: the services, and whose request it is.

Dependencies are coroutines though they await nothing: FastAPI sends plain functions through a thread, one after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from app.api import browser_scope
from app.assistants.drawings import GraphDrawings
from app.assistants.service import AssistantService
from app.crons.service import CronService
from app.errors import Unauthenticated
from app.guards.breakers import FleetBreakers
from app.guards.browser_tokens import PREFIX, BrowserGrant, BrowserTokens, TokenExpired, TokenInvalid
from app.guards.rate_limits import RequestLimit
from app.runs.feedback import FeedbackService
from app.runs.service import RunService
from app.runs.thread_streams import ThreadStreams
from app.storage.redis.store import RedisStore
from app.storage.redis.webhooks import WebhookOutbox
from app.telemetry.metrics import Metrics
from app.threads.search import ThreadSearch
from app.threads.service import ThreadService

OPEN_TENANT = "default"
"""Whose requests they are where no keys are configured."""
KEY_ID_LENGTH = 16
"""Hex digits of a key's SHA-256 by which it is known outside of this module."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Args:
        tenant: Whose data it is about.
        key_id: What allowances are counted by: the beginning of the API key's digest, or a browser's subject; empty without keys.
        browser: What a browser token grants; None: this is no browser, or one without a token.
    """

    tenant: str
    key_id: str
    browser: BrowserGrant | None = None


class ApiKeys:
    """Which key is whose; without any, everybody is `OPEN_TENANT`.

    Keys are looked up by digest, so that the time of a look-up tells nothing of a key.
    """

    def __init__(self, keys: Mapping[str, str], tokens: BrowserTokens) -> None:
        self._tenants = {_digest(key): tenant for key, tenant in keys.items()}
        self._ids = {digest.hex()[:KEY_ID_LENGTH]: tenant for digest, tenant in self._tenants.items()} or {"": OPEN_TENANT}
        self._tokens = tokens

    @property
    def are_needed(self) -> bool:
        """Whether nothing is served without a key or a token."""
        return bool(self._tenants)

    def caller(self, key: str | None) -> Caller:
        """Whose key it is, or whom a browser token speaks for.

        Raises:
            Unauthenticated: A key is needed and there is none, or it is nobody's.
        """
        if key is not None and key.startswith(PREFIX):
            return self._browser(key)
        if not self._tenants:
            return Caller(OPEN_TENANT, "")
        if not key:
            raise Unauthenticated("send an API key as x-api-key, or as Authorization: Bearer", "api_key_missing")
        digest = _digest(key)
        tenant = self._tenants.get(digest)
        if tenant is None:
            raise Unauthenticated("this API key is not known here", "api_key_unknown")
        return Caller(tenant, digest.hex()[:KEY_ID_LENGTH])

    def _browser(self, token: str) -> Caller:
        try:
            grant = self._tokens.read(token)
        except TokenExpired:
            raise Unauthenticated("this browser token has expired; ask your backend for a new one", "browser_token_expired") from None
        except TokenInvalid:
            raise Unauthenticated("this browser token is not known here", "browser_token_unknown") from None
        if self._ids.get(grant.key_id) != grant.tenant:
            raise Unauthenticated("the API key behind this browser token is not known here any more", "browser_token_unknown")
        return Caller(grant.tenant, f"browser:{grant.subject}", grant)


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes work with; made in `app.bootstrap`."""

    api_keys: ApiKeys
    browser_tokens: BrowserTokens
    feedback: FeedbackService
    threads: ThreadService
    search: ThreadSearch
    runs: RunService
    store: RedisStore
    crons: CronService
    thread_streams: ThreadStreams
    check_webhook: Callable[[str, str], None]
    outbox: WebhookOutbox
    assistants: AssistantService
    drawings: GraphDrawings
    request_limit: RequestLimit | None
    metrics: Metrics
    breakers: FleetBreakers
    check_storage: Callable[[], Awaitable[None]]
    version: str
    started_at: datetime


async def services(request: Request) -> Services:
    """The services of this process."""
    found: Services = request.state.services
    return found


ServicesDep = Annotated[Services, Depends(services)]


async def caller(
    request: Request,
    services: ServicesDep,
    key: Annotated[str | None, Security(APIKeyHeader(name="x-api-key", auto_error=False))],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
) -> Caller:
    """Who asks; a browser token is good for what `browser_scope` lists, and for nothing else."""
    found = services.api_keys.caller(key or (bearer.credentials if bearer else None))
    if found.browser is not None:
        await browser_scope.check(request, found.browser, services.threads)
    return found


CallerDep = Annotated[Caller, Depends(caller)]


async def tenant(caller: CallerDep) -> str:
    """Whose request it is."""
    return caller.tenant


TenantDep = Annotated[str, Depends(tenant)]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
