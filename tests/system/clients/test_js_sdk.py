"""LangGraph's JavaScript SDK, in node: one process makes all checks of `tests/clients-js/sdk.mjs`."""

from __future__ import annotations

import json

import pytest

from tests.support.fleet import Member
from tests.support.node import PROGRAMS, checks, run_checks


@pytest.fixture(scope="module")
def results(served: Member, key: str) -> dict[str, str]:
    return run_checks("sdk.mjs", SERVICE_URL=served.url, SERVICE_KEY=key)


@pytest.mark.needs("npm")
@pytest.mark.needs("nodejs", program="node")
@pytest.mark.parametrize("name", checks("sdk.mjs"))
def test_the_js_sdk(results: dict[str, str], name: str) -> None:
    """As the check says."""
    assert results[name] == ""


def test_the_lock_pins_with_hashes_and_names_no_registry() -> None:
    """Nobody is tied to the registry that the lock was made with; who maintains a package may be named."""
    packages = json.loads((PROGRAMS / "package-lock.json").read_text("utf-8"))["packages"]
    wanted = json.loads((PROGRAMS / "package.json").read_text("utf-8"))["dependencies"]

    locked = {name: package for name, package in packages.items() if name}
    assert [name for name, package in locked.items() if "resolved" in package or not package["integrity"].startswith("sha512-")] == []
    assert packages["node_modules/@langchain/langgraph-sdk"]["version"] == wanted["@langchain/langgraph-sdk"] == "1.15.0"
