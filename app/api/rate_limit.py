"""The rate limit of requests, as a caller sees it: header fields on every answer of a limited route, 429 when it is used up.

The fields are those of draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy: "default";q=100;w=60` is the rule, `RateLimit:
"default";r=42;t=35` says what is left (`r`) and in how many seconds the whole allowance is there again (`t`; on a 429 it is, as the draft
asks, what `Retry-After` says).
"""

from __future__ import annotations

import math
from typing import Any

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TooManyRequests
from app.guards.rate_limits import RequestLimit

POLICY, LEFT = "ratelimit-policy", "ratelimit"
_STATE = "rate_limit_fields"
DESCRIBED: dict[str, Any] = {
    "RateLimit-Policy": {
        "description": "The allowance per API key: `q` runs in `w` seconds. On routes that start runs, where a limit is set.",
        "schema": {"type": "string"},
    },
    "RateLimit": {"description": "What is left of it: `r` runs; all of them again in `t` seconds.", "schema": {"type": "string"}},
}
"""The fields as the OpenAPI document has them."""


async def spend(limit: RequestLimit, request: Request, tenant: str, key_id: str, runs: int = 1) -> None:
    """Take `runs` of the key's allowance, all or none, and leave the fields for the answer.

    Raises:
        TooManyRequests: Nothing is left.
    """
    taken = await limit.spend(tenant, key_id, runs)
    retry_after = math.ceil(taken.wait)
    reset = math.ceil(taken.full_in) if taken.is_allowed else retry_after
    policy = f'"default";q={limit.rate.allowance};w={limit.rate.window:.0f}'
    setattr(request.state, _STATE, {POLICY: policy, LEFT: f'"default";r={taken.remaining if taken.is_allowed else 0};t={reset}'})
    if not taken.is_allowed:
        detail = f"this API key may start {limit.rate.allowance} runs per minute; the next one in {retry_after} s"
        raise TooManyRequests(detail, retry_after)


class RateLimitFields:
    """ASGI middleware: puts the fields that `spend` has left on the answer, whatever that is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and (fields := scope["state"].get(_STATE)):
                MutableHeaders(scope=message).update(fields)
            await send(message)

        await self._app(scope, receive, answer if scope["type"] == "http" else send)
