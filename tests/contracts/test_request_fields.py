"""No decorative parameter: whatever a request may say, a test shows what it does."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sdk.document import document as make_document
from tests.contracts.test_openapi import operations, request_schemas, resolved

ROOT = Path(__file__).parents[2]
FIELDS = Path(__file__).parent / "fields.toml"
IGNORED = {"feedback_keys", "langsmith_tracer", "strict_resume", "checkpoint_during", "later_addition"}
"""What clients send and the protocol says to ignore, and what nobody knows yet."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document()


@pytest.fixture(scope="module")
def named() -> dict[str, Any]:
    return tomllib.loads(FIELDS.read_text("utf-8"))


def wanted(document: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Every field of every request: schema → fields, operation → parameters."""
    schemas = {name: list(document["components"]["schemas"][name].get("properties", {})) for name in request_schemas(document)}
    parameters = {
        operation["operationId"]: [f"{found['in']}.{found['name']}" for found in (resolved(document, it) for it in operation["parameters"])]
        for _, _, operation in operations(document)
    }
    return {"schemas": {name: fields for name, fields in schemas.items() if fields}, "operations": parameters}


def find(named: dict[str, Any], kind: str, owner: str, field: str) -> str | None:
    """The test that is named for a field; None: there is none."""
    own = named.get(kind, {}).get(owner, {})
    if field in own:
        return str(own[field])
    if "like" in own:
        return find(named, kind, own["like"], field)
    common = named["parameters"].get(field) if kind == "operations" else None
    return str(common) if common else None


@cache
def words_of(path: str) -> dict[str, set[str]]:
    """What the code of each test in a file says, decorators included and docstrings not: names, keywords, and words in strings."""
    found = {}
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            parts = [part for top in (*node.decorator_list, *body) for part in ast.walk(top)]
            found[node.name] = {word for part in parts for word in _said(part)}
    return found


def _said(part: ast.AST) -> list[str]:
    match part:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.keyword(arg=str(word)):
            return [word]
        case ast.Constant(value=str(text)):
            return re.split(r"[^\w-]+", text)
    return []


def fault(test: str, field: str) -> str | None:
    """What is wrong with naming this test for this field."""
    path, _, name = test.partition("::")
    if not (ROOT / path).is_file() or name not in words_of(path):
        return f"there is no {test}"
    where, _, word = field.rpartition(".")
    words = words_of(path)[name]
    if (word.lower() in {said.lower() for said in words}) if where == "header" else (word in words):
        return None
    return f"the code of {test} does not mention it"


def test_every_field_of_every_request_has_a_test_that_names_it(document: dict[str, Any], named: dict[str, Any]) -> None:
    """A field that is accepted and does nothing cannot get in."""
    faults = []
    for kind, owners in wanted(document).items():
        for owner, fields in owners.items():
            for field in fields:
                test = find(named, kind, owner, field)
                complaint = "no test is named for it" if test is None else fault(test, field)
                if complaint:
                    faults.append(f"{owner} {field}: {complaint}")
    assert not faults, "\n" + "\n".join(faults) + f"\nWrite a test of what the field does, and name it in {FIELDS.relative_to(ROOT)}."


def test_nothing_is_named_that_no_request_has(document: dict[str, Any], named: dict[str, Any]) -> None:
    """The list is no longer than the document."""
    known = wanted(document)
    parameters = {field for fields in known["operations"].values() for field in fields}
    stale = [field for field in named["parameters"] if field not in parameters]
    for kind in ("operations", "schemas"):
        for owner, fields in named[kind].items():
            stale += [f"{owner} {field}" for field in fields if field != "like" and field not in known[kind].get(owner, ())]
    assert stale == []


def test_what_is_ignored_is_not_in_the_document(document: dict[str, Any]) -> None:
    """`test_fields_that_we_do_not_know_are_ignored` sends these fields; the document promises nothing of them."""
    assert words_of("tests/system/test_protocol.py")["test_fields_that_we_do_not_know_are_ignored"] >= IGNORED
    found = wanted(document)
    assert IGNORED & {field for fields in found["schemas"].values() for field in fields} == set()
    for name in found["schemas"]:
        assert document["components"]["schemas"][name].get("additionalProperties") is not False, name
