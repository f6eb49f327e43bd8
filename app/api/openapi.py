"""The OpenAPI document: what FastAPI makes of the routes, finished so that people and generators can work with it.

Nothing here names a route: what a route declares (its types, `problem_responses`, a `text/event-stream`) is completed by rules, so that a
new one is documented as well as the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from app.api import protocol_stream, stream_events
from app.api.codes import CODES, OPENAI_CODES, RUN_CODES
from app.api.examples import Examples
from app.api.headers import header_components, header_refs
from app.api.problems import MEDIA_TYPE, OpenAIError, Problem, openai_body, problem_body
from app.api.rate_limit import DESCRIBED
from app.api.usual import USUAL

_REQUEST_ID = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "description": "A name for this request; taken over into the answer and the service's log if it is 1 to 128 of `A-Za-z0-9._:-`.",
    "schema": {"type": "string"},
}
_SPELLING = {"last-event-id": "Last-Event-ID", "x-request-id": "x-request-id"}
_API_KEY: dict[str, list[str]] = {"APIKeyHeader": []}
_RETRIED = frozenset({409, 429, 503})
_NOT_OURS = ("HTTPValidationError", "ValidationError")
_ABOUT = """\
A LangGraph supervisor behind HTTP. Threads hold conversations; a run executes an assistant on one. A run outlives its connection: it can
be followed, left and followed again, joined, cancelled and answered. The protocol is that of the LangGraph SDK; routes below `/v1` speak
OpenAI's. Fields that are not described here are ignored.

## Errors

Errors are `application/problem+json` (RFC 9457) with a stable `code`; below `/v1` they have OpenAI's form. Every route may also answer 405
(`method_not_allowed`, with `Allow`) and, if the service itself is at fault, 500 (`internal_error`).

{codes}

A run that was accepted and then fails says so in its last event, `error`, or under `__error__` where it is waited for. Its `code` is one of
{run_codes}.

## Streams

A `text/event-stream` of a run is a sequence of events, `event: <name>`, `data: <one line of JSON>`, `id: <number>`, with comments as
heartbeats. The schema `StreamEvent` has one form per name. With `stream_subgraphs`, events of a subgraph have the path to it behind a bar:
`updates|look_up:5f1c` is an `updates` event of the subgraph `look_up`. Ids increase; `Last-Event-ID` on the route in `Location` goes on
after one, with the same bytes as the unbroken stream. A stream that ends without `end` or `error` was cut: come back.

The stream of a thread, `ThreadStreamEvent`, has the events of all its runs and ends with the thread or its reader. Protocol v2 has events
of its own, `ProtocolEvent`, in a stream that does the same.
"""


def describe(app: FastAPI, models: Collection[type[BaseModel]] = ()) -> None:
    """Make `app.openapi()` answer with the finished document; `models` are those that it refers to and no route returns whole."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _finished(generate(), models)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _finished(document: dict[str, Any], models: Collection[type[BaseModel]]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _NOT_OURS:
        schemas.pop(name, None)
    described: list[type[BaseModel]] = [Problem, OpenAIError, *models]
    for model in described:
        model_schema = model.model_json_schema(ref_template=stream_events.REFERENCE)
        schemas.update(model_schema.pop("$defs", {}))
        schemas[model.__name__] = model_schema
    for name, schema in {**stream_events.schemas(), **protocol_stream.schemas()}.items():
        schemas.setdefault(name, schema)
    components["headers"] = header_components()
    components["parameters"] = {"RequestId": _REQUEST_ID}
    components["responses"] = {}
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            if name in USUAL and "$ref" not in field:
                field.setdefault("description", USUAL[name])
    examples = Examples(schemas)
    for path, operation in _operations(document):
        _finish_operation(operation, components["responses"], examples, is_openai=path.startswith("/v1/"))
    document["info"]["description"] = _ABOUT.format(codes=_table(), run_codes=", ".join(f"`{code}`" for code in RUN_CODES))
    document["components"] = {name: dict(sorted(part.items())) for name, part in components.items()}
    _tidy([document["paths"], document["components"]])
    return document


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            yield path, operation


def _finish_operation(operation: dict[str, Any], shared: dict[str, Any], examples: Examples, *, is_openai: bool) -> None:
    summary, _, rest = operation.get("description", "").partition("\n\n")
    operation["summary"] = summary.replace("\n", " ").rstrip(".")
    if rest.strip():
        operation["description"] = rest.strip()
    else:
        operation.pop("description", None)
    parameters = [_plain(parameter) for parameter in operation.get("parameters", ())]
    operation["parameters"] = [*parameters, {"$ref": "#/components/parameters/RequestId"}]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        _add_example(content, examples, is_request=True)
    responses = operation["responses"]
    if "422" in responses and is_openai:
        responses.setdefault("400", responses.pop("422"))
    wanted = (("401", "security"), ("413", "requestBody"), ("400" if is_openai else "422", "requestBody"))
    for status in [status for status, reason in wanted if reason in operation]:
        responses.setdefault(status, {})
    if _API_KEY in operation.get("security", ()):  # wherever an API key is good, a browser token may not be
        responses.setdefault("403", {})
    is_limited = "429" in responses
    for status, response in responses.items():
        if int(status) >= 400 and not _has_own_form(response):
            responses[status] = _shared_error(int(status), shared, is_openai=is_openai)
            continue
        page = ["X-Pagination-Next"] if _is_page(operation, response, examples) else []
        response.setdefault("headers", {}).update(header_refs("x-request-id", *page, *(DESCRIBED if is_limited else ())))
        if response["description"] == "Successful Response":
            response["description"] = operation["summary"]
        for media_type, content in response.get("content", {}).items():
            if media_type == stream_events.MEDIA_TYPE:
                _finish_stream(content)
            else:
                _add_example(content, examples, is_request=False)
    operation["responses"] = dict(sorted(responses.items()))


def _has_own_form(response: Mapping[str, Any]) -> bool:
    """Whether a refusal is declared in a form that is neither ours nor OpenAI's nor the framework's: a protocol may have one."""
    names = {content.get("schema", {}).get("$ref", "").rpartition("/")[2] for content in response.get("content", {}).values()}
    return not names <= {"", Problem.__name__, OpenAIError.__name__, *_NOT_OURS}


def _is_page(operation: Mapping[str, Any], response: Mapping[str, Any], examples: Examples) -> bool:
    """Whether the answer is a part of a list that was asked for by a body with an `offset`."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    answer = response.get("content", {}).get("application/json", {}).get("schema", {})
    kinds = [kind.get("type") for kind in answer.get("anyOf", [answer])]
    return "offset" in examples.fields(body) and "array" in kinds


def _finish_stream(content: dict[str, Any]) -> None:
    """A stream says what it carries, or carries the events of a run."""
    schema = content.get("schema", {})
    if "$ref" not in schema:
        content.update(stream_events.content())
    elif "itemSchema" not in content:
        content["itemSchema"] = stream_events.frame(schema)


def _shared_error(status: int, shared: dict[str, Any], *, is_openai: bool) -> dict[str, Any]:
    """A reference to the answer of this status, which is described once."""
    name = ("OpenAI" if is_openai else "") + HTTPStatus(status).phrase.replace(" ", "")
    if name not in shared:
        codes = (OPENAI_CODES if is_openai else CODES).get(status, {})
        body, model, media_type = (openai_body, OpenAIError, "application/json") if is_openai else (problem_body, Problem, MEDIA_TYPE)
        headers = header_refs("x-request-id", *DESCRIBED, *(["Retry-After"] if status in _RETRIED else ()))
        shared[name] = {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}.",
            "headers": headers,
            "content": {
                media_type: {
                    "schema": {"$ref": stream_events.REFERENCE.format(model=model.__name__)},
                    "examples": {code: {"summary": when, "value": body(status, code, when)} for code, when in codes.items()},
                }
            },
        }
    return {"$ref": f"#/components/responses/{name}"}


def _add_example(content: dict[str, Any], examples: Examples, *, is_request: bool) -> None:
    if "schema" in content and "example" not in content and "examples" not in content:
        content["example"] = examples.of(content["schema"], is_request=is_request)


def _plain(parameter: dict[str, Any]) -> dict[str, Any]:
    """The parameter under its usual spelling; that it may be left out is said by `required`, not by null."""
    schema = parameter["schema"]
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **kinds[0]}
    schema.pop("description", None)
    name = parameter["name"]
    parameter.setdefault("description", USUAL.get(name, ""))
    if parameter["in"] == "header":
        name = _SPELLING.get(name, "-".join(word.capitalize() for word in name.split("-")))
    return {**parameter, "name": name, "schema": schema}


def _tidy(node: Any) -> None:
    """Drop what pydantic makes of names, since the names are there already, and nulls for what is absent instead."""
    if isinstance(node, list):
        for value in node:
            _tidy(value)
    elif isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        if "default" in node and node["default"] is None and not any(map(_takes_null, node.get("anyOf", [node]))):
            del node["default"]
        for key, value in node.items():
            if key == "properties":
                _tidy([*value.values()])
            elif key not in ("example", "examples"):
                _tidy(value)


def _takes_null(schema: Mapping[str, Any]) -> bool:
    return schema.get("type", "null") == "null" and "$ref" not in schema


def _table() -> str:
    rows = [f"| {status} | `{code}` | {when} |" for status, codes in CODES.items() for code, when in codes.items()]
    return "\n".join(["| Status | Code | When |", "|---|---|---|", *rows])
