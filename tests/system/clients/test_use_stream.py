"""Both `useStream` hooks of LangGraph's React clients, mounted in a page without a browser; a process each makes all checks."""

from __future__ import annotations

import pytest

from tests.support.fleet import Member
from tests.support.node import checks, run_checks

pytestmark = [pytest.mark.needs("npm"), pytest.mark.needs("nodejs", program="node")]


@pytest.fixture(scope="module")
def first(served: Member, key: str) -> dict[str, str]:
    return run_checks("use_stream.mjs", SERVICE_URL=served.url, SERVICE_KEY=key)


@pytest.fixture(scope="module")
def second(served: Member, key: str) -> dict[str, str]:
    return run_checks("react.mjs", SERVICE_URL=served.url, SERVICE_KEY=key)


@pytest.mark.parametrize("name", checks("use_stream.mjs"))
def test_use_stream_of_the_sdk(first: dict[str, str], name: str) -> None:
    """As the check says, over the first protocol."""
    assert first[name] == ""


@pytest.mark.parametrize("name", checks("react.mjs"))
def test_use_stream_of_the_react_package(second: dict[str, str], name: str) -> None:
    """As the check says, over the second protocol."""
    assert second[name] == ""
