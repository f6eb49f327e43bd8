"""Routes for operators. They exist only where `ADMIN_TOKEN` is set, and no tenant's key opens them."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field, SecretStr

from app.api.deps import ServicesDep
from app.api.problems import problem_responses
from app.errors import Unauthenticated
from resilience.breaker import BreakerSnapshot, BreakerState, MovedBy


class BreakerView(BaseModel):
    """How the breaker of one dependency stands in the process that answers."""

    dependency: str = Field(description="Whose breaker it is.", examples=["specialist:billing_support", "model:openai/gpt-4.1-mini"])
    state: BreakerState = Field(description="`isolated`: opened by hand, until it is closed by hand.")
    since: float = Field(description="Seconds in this state.")
    by: MovedBy = Field(description="Who moved it: its own rules (`here`), an operator (`hand`) or another process (`fleet`).")
    why: str = Field(description="Why it moved; empty: it never did.", examples=["model_unavailable", "too_slow", "by_hand"])
    is_admitting: bool = Field(description="Whether it would let a call through now.")
    consecutive_failures: int = Field(description="Failures since the last success.")
    recent_calls: int = Field(description="Results in the last 30 seconds.")
    recent_failures: int
    recent_slow: int
    retry_in: float = Field(description="Seconds until it tries again; 0 unless it is open.")
    reopenings: int = Field(description="How often it has opened again before it had been well for long; each doubles the wait.")
    last_failure: str | None = Field(description="Code of the last failure.", examples=["attempt_timed_out"])


class BreakerMove(BaseModel):
    """What to do with a breaker."""

    dependency: str = Field(description="Whose breaker.", examples=["specialist:billing_support"])
    state: Literal["isolated", "closed"] = Field(description="`isolated`: refuse every call from now on; `closed`: let calls through.")


class MovedBreaker(BreakerView):
    """How it stands now."""

    is_fleet_wide: bool = Field(description="Whether the other processes know; if not, they are told as soon as Redis answers.")


def router(token: SecretStr) -> APIRouter:
    """The routes, open to whoever sends `token`."""
    routes = APIRouter(prefix="/admin", tags=["admin"], responses=problem_responses(401), dependencies=[Depends(_only_with(token))])

    @routes.get("/breakers", name="list_breakers")
    async def list_breakers(services: ServicesDep) -> list[BreakerView]:
        """Every breaker of the process that answers, by dependency."""
        return [BreakerView(**_shown(snapshot)) for snapshot in services.breakers.snapshots()]

    @routes.post("/breakers", name="move_breaker", responses=problem_responses(404, 413, 422))
    async def move_breaker(body: BreakerMove, services: ServicesDep) -> MovedBreaker:
        """Isolate a breaker, or close it whatever state it is in."""
        snapshot, is_fleet_wide = await services.breakers.move(body.dependency, BreakerState(body.state))
        return MovedBreaker(**_shown(snapshot), is_fleet_wide=is_fleet_wide)

    return routes


def _only_with(token: SecretStr) -> Callable[[str | None, HTTPAuthorizationCredentials | None], Awaitable[None]]:
    expected = token.get_secret_value().encode()

    async def check(
        header: Annotated[str | None, Security(APIKeyHeader(name="x-admin-token", scheme_name="AdminToken", auto_error=False))],
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(scheme_name="AdminBearer", auto_error=False))],
    ) -> None:
        sent = header or (bearer.credentials if bearer else "")
        if not secrets.compare_digest(sent.encode(), expected):
            raise Unauthenticated("send the service's ADMIN_TOKEN as Authorization: Bearer, or as x-admin-token")

    return check


def _shown(snapshot: BreakerSnapshot) -> dict[str, object]:
    shown = asdict(snapshot)
    return {**shown, "reopenings": max(0, shown.pop("openings") - 1)}
