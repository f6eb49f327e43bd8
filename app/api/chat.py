"""The web chat: one static page with its modules, the script that embeds it in other pages, and what the page must know about itself.

The page is the same for everybody and says nothing of anybody, so it needs no key; whatever it then asks of the API does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, Field

from app.api.deps import CallerDep, ServicesDep
from app.api.problems import problem_responses
from app.errors import NotFound

PAGE = "chat.html"
EMBED = "embed.js"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = (PAGE, EMBED, "chat.css", "chat.js", "api.js", "conversation.js", "markdown.js", "texts.js", "view.js", "icon.svg")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_SELF = ("'self'",)
_LOOPBACK = ("http://localhost:*", "https://localhost:*", "http://127.0.0.1:*", "https://127.0.0.1:*")


class ChatSession(BaseModel):
    """What a chat page may do for whoever sits at it."""

    assistant_id: str = Field(description="The assistant that it talks to.")
    may_approve: bool = Field(description="Whether it may answer what a run asks a human.")
    may_name_customer: bool = Field(description="Whether it may say who the customer is; a browser token says it already.")
    expires_in: int | None = Field(None, description="Seconds until its token ends; null: it does not.")


def router(origins: Sequence[str] | None, *, has_keys: bool) -> APIRouter:
    """The routes; `origins` are the pages that may embed the chat: None stands for this machine's, or none at all where keys are needed."""
    routes = APIRouter(tags=["chat"])
    allowed = origins if origins is not None else () if has_keys else _LOOPBACK
    policy = f"{_POLICY}; frame-ancestors {'*' if '*' in allowed else ' '.join(_SELF + tuple(allowed))}"

    @routes.get("/chat", name="get_chat_page", include_in_schema=False)
    async def get_chat_page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """The page."""
        return _answer(PAGE, if_none_match, {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    @routes.get("/chat/session", name="get_chat_session", responses=problem_responses(401))
    async def get_chat_session(services: ServicesDep, caller: CallerDep) -> ChatSession:
        """What a chat page may do with the key or token that it sends."""
        grant = caller.browser
        if grant is None:
            return ChatSession(assistant_id="supervisor", may_approve=True, may_name_customer=True)
        left = max(0, grant.expires_at - int(services.browser_tokens.now()))
        return ChatSession(assistant_id=grant.assistant_id, may_approve=grant.may_approve, may_name_customer=False, expires_in=left)

    @routes.get("/chat/{name}", name="get_chat_file", include_in_schema=False)
    async def get_chat_file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """A file of the page."""
        if name not in _FILES or name == PAGE:
            raise NotFound(f"the chat has no file {name}")
        # Other pages load the script that embeds us; nothing else is for them.
        policy = "cross-origin" if name == EMBED else "same-origin"
        return _answer(name, if_none_match, {"Cross-Origin-Resource-Policy": policy})

    return routes


def _answer(name: str, known: str | None, headers: dict[str, str]) -> Response:
    """The file, or that the browser has it already: it asks each time, so that a new version is seen at once."""
    body, tag = _read(name)
    fixed = {"Cache-Control": "no-cache", "ETag": tag, "X-Content-Type-Options": "nosniff", **headers}
    if known == tag:
        return Response(status_code=304, headers=fixed)
    return Response(body, headers=fixed, media_type=f"{_TYPES[name[name.index('.') :]]}; charset=utf-8")


@cache
def _read(name: str) -> tuple[bytes, str]:
    body = (files("app.api") / "static" / name).read_bytes()
    return body, f'"{sha256(body).hexdigest()[:32]}"'
