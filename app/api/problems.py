"""Errors on the wire: RFC 9457 problem details, one table from class to status and code.

`detail` is always a string, since the SDKs of the protocol show nothing else. Routes below `/v1` speak OpenAI's form of
the same errors. Text of exceptions that we do not know never leaves.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from app.errors import AppError
from app.storage.errors import StorageError, StorageUnavailable
from app.telemetry.logging import get_logger

MEDIA_TYPE = "application/problem+json"
BODY_TOO_LARGE = "body_too_large"
_CODES = {404: "not_found", 405: "method_not_allowed", 413: BODY_TOO_LARGE, 415: "unsupported_media_type"}
_MALFORMED = "malformed_json"
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_OPENAI_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field("about:blank", description="Always `about:blank`: `code` tells the errors apart.")
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(description="The HTTP status.", examples=[404])
    code: str = Field(description="A stable word for this kind of error.", examples=["thread_not_found"])
    detail: str = Field(description="What is wrong and what to do.", examples=["there is no thread 3f0c9a44-6c0e-4b0a-9d52-0a3d2b6f3a11"])
    request_id: str | None = Field(None, description="Names this request in the service's log.")


class OpenAIFault(BaseModel):
    """What went wrong, in OpenAI's words."""

    message: str = Field(description="What is wrong and what to do.")
    type: str = Field(description="The kind of error.", examples=["not_found_error"])
    param: str | None = Field(None, description="The field that is to blame.")
    code: str | None = Field(None, description="A stable word for this kind of error.", examples=["model_not_found"])


class OpenAIError(BaseModel):
    """An error of a route below `/v1`."""

    error: OpenAIFault


def openai_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route below `/v1` that can fail with `statuses`."""
    return {status: {"description": HTTPStatus(status).phrase, "model": OpenAIError} for status in statuses}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can fail with `statuses`."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def problem(
    request: Request, status: int, code: str, detail: str, retry_after: float | None = None, param: str | None = None
) -> JSONResponse:
    """The answer that tells of an error; `param` names the faulty field, where the form of the answer has a place for it."""
    headers = {"Retry-After": str(max(1, math.ceil(retry_after)))} if retry_after is not None else {}
    if request.url.path.startswith("/v1/"):
        return JSONResponse(openai_body(status, code, detail, param), 400 if status == 422 else status, headers)
    body = problem_body(status, code, detail, getattr(request.state, "request_id", None))
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def openai_body(status: int, code: str, detail: str, param: str | None = None) -> dict[str, Any]:
    """The error as routes below `/v1` say it."""
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": detail, "type": kind, "param": param, "code": _OPENAI_CODES.get(status, code)}}


def problem_body(status: int, code: str, detail: str, request_id: str | None = None) -> dict[str, Any]:
    """The error as all other routes say it."""
    title = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail, "request_id": request_id}


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""

    @app.exception_handler(AppError)
    async def refused(request: Request, exc: AppError) -> JSONResponse:
        return problem(request, exc.status, exc.code, exc.detail, exc.retry_after, exc.param)

    @app.exception_handler(StorageError)
    async def without_storage(request: Request, exc: StorageError) -> JSONResponse:
        get_logger().warning("storage_failed", code=exc.code, error=str(exc))
        request.state.services.metrics.redis_failed(request.scope["route"].name, exc.__cause__ or exc)
        retry_after = exc.retry_after if isinstance(exc, StorageUnavailable) else 1.0
        return problem(request, 503, exc.code, "the storage cannot be reached right now; try again in a moment", retry_after)

    @app.exception_handler(HTTPException)
    async def by_framework(request: Request, exc: HTTPException) -> JSONResponse:
        if exc.status_code == 400:  # the framework's only one: the parser broke down over the body
            return problem(request, 422, _MALFORMED, str(exc.detail))
        response = problem(request, exc.status_code, _CODES.get(exc.status_code, "http_error"), str(exc.detail))
        response.headers.update(exc.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, exc: RequestValidationError) -> JSONResponse:
        faults = exc.errors()
        code = _MALFORMED if any(fault["type"] == "json_invalid" for fault in faults) else "invalid_input"
        return problem(request, 422, code, "; ".join(_fault(fault) for fault in faults), param=_where(faults[0]) or None)

    @app.exception_handler(Exception)
    async def unknown(request: Request, exc: Exception) -> JSONResponse:
        get_logger().exception("request_failed", path=request.url.path)
        return problem(request, 500, "internal_error", "the request failed for a reason that is in the service's log")


def _fault(fault: Any) -> str:
    where = _where(fault)
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _where(fault: Any) -> str:
    if fault["type"] == "json_invalid":
        return ""
    return ".".join(str(part) for part in fault["loc"] if part != "body")
