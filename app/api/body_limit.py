"""A body that says it is too large is refused before any of it is read, as a problem like every other refusal.

FastAPI's own limit counts the bodies that say nothing; for the others it answers in plain text, hence this.
"""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import BODY_TOO_LARGE, problem


class BodyLimit:
    """ASGI middleware: answers 413 to requests whose `Content-Length` is over `max_bytes`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        app = self._app
        if scope["type"] == "http":
            request = Request(scope)
            length = request.headers.get("content-length", "")
            if length.isdecimal() and int(length) > self._max_bytes:
                app = problem(request, 413, BODY_TOO_LARGE, f"the body has {length} bytes, at most {self._max_bytes} are taken")
        await app(scope, receive, send)
