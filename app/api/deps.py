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

from app.assistants.drawings import GraphDrawings
from app.assistants.service import AssistantService
from app.crons.service import CronService
from app.errors import Unauthenticated
from app.guards.breakers import FleetBreakers
from app.guards.rate_limits import RequestLimit
from app.runs.service import RunService
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
        key_id: The beginning of the API key's digest, which tells the keys of a tenant apart; empty without keys.
    """

    tenant: str
    key_id: str


class ApiKeys:
    """Which key is whose; without any, everybody is `OPEN_TENANT`.

    Keys are looked up by digest, so that the time of a look-up tells nothing of a key.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._tenants = {_digest(key): tenant for key, tenant in keys.items()}

    def caller(self, key: str | None) -> Caller:
        """Whose key it is.

        Raises:
            Unauthenticated: A key is needed and there is none, or it is nobody's.
        """
        if not self._tenants:
            return Caller(OPEN_TENANT, "")
        if not key:
            raise Unauthenticated("send an API key as x-api-key, or as Authorization: Bearer", "api_key_missing")
        digest = _digest(key)
        tenant = self._tenants.get(digest)
        if tenant is None:
            raise Unauthenticated("this API key is not known here", "api_key_unknown")
        return Caller(tenant, digest.hex()[:KEY_ID_LENGTH])


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes work with; made in `app.bootstrap`."""

    api_keys: ApiKeys
    threads: ThreadService
    search: ThreadSearch
    runs: RunService
    store: RedisStore
    crons: CronService
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
    services: ServicesDep,
    key: Annotated[str | None, Security(APIKeyHeader(name="x-api-key", auto_error=False))],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
) -> Caller:
    """Who asks."""
    return services.api_keys.caller(key or (bearer.credentials if bearer else None))


CallerDep = Annotated[Caller, Depends(caller)]


async def tenant(caller: CallerDep) -> str:
    """Whose request it is."""
    return caller.tenant


TenantDep = Annotated[str, Depends(tenant)]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
