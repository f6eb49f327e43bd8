"""The header fields of answers, as the OpenAPI document has them: each is described once and referred to where it comes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from app.api.rate_limit import DESCRIBED

_HEADERS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        **DESCRIBED,
        "x-request-id": {
            "description": "Names this request in the service's log: the caller's `x-request-id`, or a new one.",
            "schema": {"type": "string"},
        },
        "Retry-After": {
            "description": "Seconds after which it is worth trying again.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "Content-Location": {
            "description": "The run, `/threads/{thread_id}/runs/{run_id}`, behind the prefix of a proxy if there is one.",
            "schema": {"type": "string"},
        },
        "Location": {
            "description": "Where to come back to after a cut: the run's `/stream` or `/join`, or the thread's `/stream`.",
            "schema": {"type": "string"},
        },
        "X-Thread-Id": {
            "description": "The conversation, if the request named one.",
            "schema": {"type": "string", "format": "uuid"},
        },
        "X-Pagination-Next": {
            "description": "The `offset` of the next page; absent on the last one.",
            "schema": {"type": "string", "pattern": "^[0-9]+$"},
        },
    }
)


def header_components() -> dict[str, Any]:
    """What stands under `components.headers`."""
    return {_component(name): header for name, header in _HEADERS.items()}


def header_refs(*names: str) -> dict[str, Any]:
    """The `headers` of an answer that has these."""
    return {name: {"$ref": f"#/components/headers/{_component(name)}"} for name in names}


def _component(name: str) -> str:
    return "".join(word[0].upper() + word[1:] for word in name.split("-") if word.lower() != "x")
