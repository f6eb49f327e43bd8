"""Route of browser tokens: the product's backend asks, with its API key, and hands the answer to its page (ADR-0035)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import uuid4

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, StringConstraints

from app.api.deps import CallerDep, ServicesDep
from app.api.problems import problem_responses
from app.errors import Forbidden
from app.guards.browser_tokens import BrowserGrant

router = APIRouter(tags=["browser tokens"], responses=problem_responses(401))
Origin = Annotated[str, StringConstraints(pattern=r"^https?://[^/?#\s]+$", max_length=255)]


class TokenCustomer(BaseModel):
    """Who sits at the browser, as the backend knows it."""

    id: str | None = Field(None, min_length=1, max_length=128, description="The customer's number in the product's own books.")
    tier: Literal["standard", "vip"] = Field("standard", description="How the customer is to be treated.")
    locale: str | None = Field(
        None, pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$", description="The language, as `es` or `pt-BR`.", examples=["es"]
    )


class BrowserTokenCreate(BaseModel):
    """For whom, for how long and for which page a token is."""

    customer: TokenCustomer | None = Field(
        None, description="Whom runs of this browser are for, whatever the page says; null: nobody known."
    )
    subject: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Whose threads the browser sees: those of any token of the same subject. Default: the customer's id, else a new one.",
    )
    ttl_seconds: int = Field(900, ge=60, le=3600, description="How long the token is good.")
    origin: Origin | None = Field(
        None,
        description="The page that may use it, as scheme://host:port; null: any that may call at all.",
        examples=["https://shop.example"],
    )
    assistant_id: str = Field("supervisor", min_length=1, max_length=128, description="The assistant that may be run, as runs name it.")
    may_approve: bool = Field(
        False,
        description="Whether this browser may answer what a run asks a human. Not for customers: they would approve their own refunds.",
    )


class BrowserToken(BaseModel):
    """A token for one browser."""

    token: str = Field(description="To be sent as `x-api-key` or as `Authorization: Bearer`.")
    subject: str = Field(description="Name it when the token is renewed, and the browser keeps its threads.")
    expires_at: datetime
    expires_in: int = Field(description="The same in seconds from now.")


@router.post("/browser-tokens", name="create_browser_token", responses=problem_responses(403, 413, 422))
async def create_browser_token(body: BrowserTokenCreate, services: ServicesDep, caller: CallerDep, response: Response) -> BrowserToken:
    """Make a token that a page may have: short-lived, for one subject's chats, as one customer."""
    tokens = services.browser_tokens
    if not tokens.are_issued:
        raise Forbidden("no browser tokens are issued here: set BROWSER_TOKEN_SECRET", "browser_tokens_off")
    customer = body.customer.model_dump(exclude_none=True) if body.customer is not None else {}
    grant = BrowserGrant(
        tenant=caller.tenant,
        key_id=caller.key_id,
        subject=body.subject or customer.get("id") or str(uuid4()),
        expires_at=int(tokens.now()) + body.ttl_seconds,
        assistant_id=body.assistant_id,
        customer=customer,
        origin=(body.origin or "").lower(),
        may_approve=body.may_approve,
    )
    response.headers["Cache-Control"] = "no-store"
    return BrowserToken(
        token=tokens.issue(grant),
        subject=grant.subject,
        expires_at=datetime.fromtimestamp(grant.expires_at, UTC),
        expires_in=body.ttl_seconds,
    )
