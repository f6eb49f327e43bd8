"""What a browser token opens: a list of routes, its own threads, and of a run's body what a chat needs. All else is refused (ADR-0035).

The list names what is open and not what is closed, so a route that is added later is closed to browsers until somebody adds it here.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import Request
from pydantic import JsonValue

from app.api.schemas import Command, RunCreate, ThreadCreate
from app.errors import Forbidden, NotFound
from app.guards.browser_tokens import SUBJECT, BrowserGrant
from app.threads.service import ThreadService

ROUTES = frozenset(
    {
        "create_thread", "get_thread", "get_thread_state", "list_thread_history", "get_thread_history",
        "create_run", "wait_for_run", "stream_run", "list_runs", "get_run", "join_run", "join_run_stream", "cancel_run",
        "put_feedback", "list_feedback", "get_chat_session",
    }
)  # fmt: skip
"""Names of the routes that a browser may call."""
FIELDS = frozenset(
    {"assistant_id", "input", "command", "stream_mode", "stream_subgraphs", "stream_resumable", "multitask_strategy", "on_disconnect"}
)
"""Fields of a run's body that a browser may fill in."""


async def check(request: Request, grant: BrowserGrant, threads: ThreadService) -> None:
    """Return if the token is good for this request.

    Raises:
        Forbidden: It is not for this route, or not for the page that sends it.
        NotFound: The path names a thread of somebody else, or none.
    """
    if request.scope["route"].name not in ROUTES:
        raise Forbidden("a browser token is not for this route; call it from your backend, with the API key", "not_for_browsers")
    if request.query_params.get("action") == "rollback":
        raise Forbidden("a browser may end a run, but not undo it", "not_for_browsers")
    _check_origin(request, grant)
    thread_id = _thread_id(request)
    if thread_id is not None:
        check_owner(grant, thread_id, (await threads.get(grant.tenant, thread_id)).metadata)


def check_owner(grant: BrowserGrant, thread_id: str, metadata: dict[str, Any]) -> None:
    """Return if the thread is the subject's own.

    Raises:
        NotFound: It is not, in the words of a thread that does not exist.
    """
    if metadata.get(SUBJECT) != grant.subject:
        raise NotFound(f"there is no thread {thread_id}", "thread_not_found")


def check_thread(body: ThreadCreate) -> None:
    """Return if a browser may make this thread.

    Raises:
        Forbidden: It would begin with a history that nobody has had, or with a time to live of the page's choice.
    """
    refused = sorted(body.model_fields_set & {"supersteps", "ttl"})
    if refused:
        raise Forbidden(f"a browser may not set {', '.join(refused)}", "field_not_for_browsers")


def narrowed(grant: BrowserGrant, body: RunCreate) -> RunCreate:
    """The run as the browser may have it: with the token's customer, whatever the page says.

    Raises:
        Forbidden: It asks for more than a chat needs.
    """
    refused = sorted(body.model_fields_set - FIELDS)
    if refused:
        raise Forbidden(f"a browser may not set {', '.join(refused)}", "field_not_for_browsers")
    if body.assistant_id != grant.assistant_id:
        raise Forbidden(f"this token is for the assistant {grant.assistant_id!r} only", "assistant_not_for_browsers")
    if body.multitask_strategy == "rollback":
        raise Forbidden("a browser may interrupt a run, but not undo it", "field_not_for_browsers")
    if body.command is not None:
        _check_command(grant, body.command)
    return body.model_copy(update={"input": _input(grant, body.input)})


def _check_command(grant: BrowserGrant, command: Command) -> None:
    if command.model_fields_set - {"resume"}:
        raise Forbidden("a browser may not change a state or jump in a graph", "field_not_for_browsers")
    if not grant.may_approve:
        raise Forbidden("this is for a person of the team to answer: the token has no may_approve", "approval_not_for_browsers")


def _input(grant: BrowserGrant, given: Any) -> Any:
    """Only what a customer says, and who it is as the backend knows it; the page's language is believed."""
    if not isinstance(given, dict):
        return given
    said = given.get("messages")
    if isinstance(said, list) and not all(map(_is_of_user, said)):
        raise Forbidden("a browser speaks for the user only", "field_not_for_browsers")
    claimed = given.get("customer")
    locale = claimed.get("locale") if isinstance(claimed, dict) else None
    customer: dict[str, JsonValue] = {**({"locale": locale} if locale is not None else {}), **grant.customer}
    return {"messages": said, **({"customer": customer} if customer else {})}


def _is_of_user(message: Any) -> bool:
    return isinstance(message, dict) and all(message.get(key) in ("user", "human", None) for key in ("role", "type"))


def _check_origin(request: Request, grant: BrowserGrant) -> None:
    """A page that is served from here sends our own origin, or none; any other must be the one that the token is for."""
    origin = request.headers.get("origin")
    if not grant.origin or origin is None or origin == grant.origin:
        return
    if urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden(f"this token is for pages of {grant.origin}", "origin_not_allowed")


def _thread_id(request: Request) -> str | None:
    """The thread that the path names; what is no id is left to the route's own check."""
    try:
        return str(UUID(request.path_params["thread_id"]))
    except (KeyError, ValueError):
        return None
