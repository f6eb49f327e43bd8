"""The OpenAPI document: what FastAPI makes of the routes, with one schema for errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from app.api.problems import MEDIA_TYPE, Problem
from app.api.rate_limit import describe_fields


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` answer with the finished document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    responses = operation["responses"]
                    if "401" in responses and not path.startswith("/admin"):  # wherever a key is needed, a browser token may not do
                        responses.setdefault("403", {**responses["401"], "description": "Forbidden"})
                    if "429" in operation["responses"]:
                        describe_fields(operation)
                    if path.startswith("/v1/"):
                        operation["responses"].pop("422", None)  # a 400 there
                    else:
                        _as_problem(operation)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _as_problem(operation: dict[str, Any]) -> None:
    """FastAPI writes a form of its own for 422; ours is a problem like every other."""
    answer = operation["responses"].get("422")
    if answer is not None:
        answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
