"""The OpenAPI document is a product: committed, complete, and true of the code it is made from."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import agents
import app
import resilience
from agents.errors import AgentError
from app.api.codes import CODES, OPENAI_CODES, RUN_CODES
from app.errors import AppError, InvalidInput
from app.storage.errors import StorageError
from app.storage.redis.store_rules import StoreRefused
from resilience.errors import DependencyError, ResilienceError
from sdk.document import DOCUMENT, text
from sdk.document import document as make_document

ROOT = Path(__file__).parents[2]
METHODS = {"get", "put", "post", "patch", "delete"}
DIFFERENCE_LIMIT = 60
OWN_FORM = {("send_thread_command", "400")}
"""Refusals that have a form of their protocol's own (v2), by operation and status."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield path, method, operation


def resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def test_the_committed_document_is_what_the_code_says() -> None:
    """A change of the API is seen by whoever reviews it."""
    committed, now = DOCUMENT.read_text("utf-8").splitlines(), text().splitlines()
    difference = [*difflib.unified_diff(committed, now, "docs/openapi.json", "the code", lineterm="", n=2)]
    shown = "\n".join(difference[:DIFFERENCE_LIMIT])
    more = len(difference) - DIFFERENCE_LIMIT
    assert not difference, (
        f"\n{shown}\n{f'… and {more} lines more' if more > 0 else ''}\nIf this is meant: make openapi, and commit the file."
    )


def test_every_operation_has_a_name_and_says_what_it_does(document: dict[str, Any]) -> None:
    """Generators make functions of them: the ids are words, and none comes twice."""
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len({*ids})
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        assert operation["operationId"].isidentifier(), where
        assert operation["operationId"].islower(), where
        assert len(operation["tags"]) == 1, where
        assert operation["summary"], where


def test_every_field_of_a_request_and_every_schema_is_described(document: dict[str, Any]) -> None:
    """Nobody has to guess what a field is for."""
    silent = [name for name, schema in document["components"]["schemas"].items() if not schema.get("description") and name != "JsonValue"]
    for _, _, operation in operations(document):
        for parameter in (resolved(document, parameter) for parameter in operation["parameters"]):
            if not parameter.get("description"):
                silent.append(f"{operation['operationId']}: {parameter['name']}")
    for name in request_schemas(document):
        for field, schema in document["components"]["schemas"][name].get("properties", {}).items():
            kinds = [schema, resolved(document, schema), *(resolved(document, kind) for kind in schema.get("anyOf", ()))]
            if not any(kind.get("description") for kind in kinds):
                silent.append(f"{name}.{field}")
    assert not silent, "\n" + "\n".join(silent) + "\nGive them a description where they are declared (or in app/api/usual.py)."


def request_schemas(document: dict[str, Any]) -> list[str]:
    """The names of all schemas that request bodies are made of."""
    found: dict[str, None] = {}

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for value in node:
                walk(value)
        elif isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found[name] = None
                walk(document["components"]["schemas"][name])
            for key, value in node.items():
                if key not in ("example", "examples", "mapping"):
                    walk(value)

    for _, _, operation in operations(document):
        walk(operation.get("requestBody", {}))
    return [*found]


def test_every_operation_documents_the_refusals_that_it_cannot_escape(document: dict[str, Any]) -> None:
    """A key may be wrong or a browser's, a body too large or malformed, an id no id."""
    for path, method, operation in operations(document):
        answers, where, malformed = operation["responses"], f"{method} {path}", "400" if path.startswith("/v1/") else "422"
        assert ("401" in answers) == ("security" in operation), where
        assert ("403" in answers) == ("security" in operation and not path.startswith("/admin/")), where
        if "requestBody" in operation:
            assert {"413", malformed} <= answers.keys(), where
        for parameter in operation["parameters"]:
            if resolved(document, parameter)["schema"].get("format") == "uuid":
                assert malformed in answers, where


def test_every_error_is_a_problem_with_a_code(document: dict[str, Any]) -> None:
    """RFC 9457 but for one answer, OpenAI's form below /v1, and an example for each code; none in a form of the framework's own."""
    assert {"HTTPValidationError", "ValidationError"}.isdisjoint(document["components"]["schemas"])
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400 or (operation["operationId"], status) in OWN_FORM:
                continue
            found = resolved(document, answer)
            is_openai = path.startswith("/v1/")
            (media_type,) = found["content"]
            assert media_type == ("application/json" if is_openai else "application/problem+json"), f"{method} {path} {status}"
            assert found["content"][media_type]["schema"]["$ref"].endswith("/OpenAIError" if is_openai else "/Problem")
            codes = (OPENAI_CODES if is_openai else CODES).get(int(status), {})
            assert codes, f"{method} {path} {status}: add its codes to app/api/codes.py"
            assert found["content"][media_type]["examples"].keys() == codes.keys()
            if status in ("429", "503"):
                assert "Retry-After" in found["headers"]


def test_every_example_is_what_its_schema_says(document: dict[str, Any]) -> None:
    """Whoever copies one gets something that works."""
    checked = 0
    for path, method, operation in operations(document):
        bodies = [operation.get("requestBody", {}), *(resolved(document, answer) for answer in operation["responses"].values())]
        for media_type, content in [pair for body in bodies for pair in body.get("content", {}).items()]:
            if media_type == "text/event-stream":
                continue
            schema = {**content["schema"], "components": document["components"]}
            validator = jsonschema_rs.Draft202012Validator(schema)
            values = [content["example"]] if "example" in content else [example["value"] for example in content["examples"].values()]
            for value in values:
                checked += 1
                assert [error.message for error in validator.iter_errors(value)] == [], f"{method} {path}: {value}"
    assert checked > 100


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """And every schema is one that something refers to: there is one per thing and none too many."""
    used: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for value in node:
                walk(value)
        elif isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                resolved(document, node)
                used.add("/".join(node["$ref"].split("/")[:4]))
            for value in node.values():
                walk(value)

    walk(document)
    named = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "responses", "headers", "parameters") for name in document["components"][kind]
    }
    assert named - used == set()


def subclasses(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def refusals() -> Iterator[tuple[str, int, str]]:
    """Where, status and code of everything that the service refuses: from the classes, and from the places that raise them."""
    for package in (app, agents, resilience):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith((".main", ".worker")):
                importlib.import_module(module.name)
    classes: dict[str, type] = {kind.__name__: kind for kind in subclasses(AppError)}
    classes["StoreRefused"] = type(
        "StoreRefused", (), {"status": InvalidInput.status, "code": "invalid_item", "__init__": StoreRefused.__init__}
    )  # answered as such
    for kind in classes.values():
        yield f"class {kind.__name__}", kind.status, kind.code  # type: ignore[attr-defined]
    for file in sorted((ROOT / "app").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in classes:
                continue
            named = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            takes_code = list(inspect.signature(classes[node.func.id]).parameters)[1:2] == ["code"]
            for code in named or (node.args[1:2] if takes_code else []):
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", classes[node.func.id].status, code.value  # type: ignore[attr-defined]


def test_every_code_that_is_raised_is_in_the_table() -> None:
    """What the table of app/api/codes.py does not know, no caller can know."""
    known = {(status, code) for table in (CODES, OPENAI_CODES) for status, codes in table.items() for code in codes}
    missing = [f"{where}: {status} {code}" for where, status, code in refusals() if (status, code) not in known and code != AppError.code]
    missing += [f"{kind.__name__}: 503 {kind.code}" for kind in subclasses(StorageError) if kind.code not in CODES[503]]  # type: ignore[attr-defined]
    assert not missing, "\n" + "\n".join(missing) + "\nAdd them to app/api/codes.py, then make openapi."


def test_every_code_in_the_table_is_raised() -> None:
    """A code that nothing says any more is no promise."""
    source = "\n".join(file.read_text("utf-8") for file in (ROOT / "app").rglob("*.py") if file.name != "codes.py")
    assert [code for codes in CODES.values() for code in codes if f'"{code}"' not in source] == []


def test_every_code_of_a_failed_run_is_in_the_table() -> None:
    """Whatever a run may fail with: a refusal of our own, a dependency's, or a specialist's."""
    codes = {kind.code for root in (AgentError, DependencyError, ResilienceError) for kind in subclasses(root)}  # type: ignore[attr-defined]
    assert codes - RUN_CODES.keys() == set()
