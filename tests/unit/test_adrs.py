"""Decisions that the code names exist, and are written in one form."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADRS = sorted((ROOT / "docs/adr").glob("*.md"))
FORM = ("Status: ", "## Context", "## Decision", "## Consequences", "## Alternatives", "## Enforced by")


def test_every_adr_that_is_named_exists() -> None:
    """A reader who follows an ADR-NNNN finds it."""
    existing = {f"ADR-{adr.name[:4]}" for adr in ADRS}
    files = [path for folder in ("app", "graphs", "agents", "resilience", "tests", "docs") for path in (ROOT / folder).rglob("*.*")]
    texts = [path.read_text("utf-8") for path in files if path.suffix in (".py", ".md")]

    assert set(re.findall(r"ADR-\d{4}", "\n".join(texts))) <= existing


@pytest.mark.parametrize("adr", ADRS, ids=lambda path: path.stem)
def test_an_adr_has_its_form(adr: Path) -> None:
    """Every decision says when, why, what, at what price, instead of what, and what holds it."""
    text = adr.read_text("utf-8")

    assert text.startswith(f"# ADR-{adr.name[:4]}: ")
    assert [part for part in FORM if part not in text] == []


def test_what_an_adr_says_enforces_it_exists() -> None:
    """A test that is named as the guard of a decision is there."""
    named = {match for adr in ADRS for match in re.findall(r"`(tests/[\w/]+\.py)", adr.read_text("utf-8"))}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_numbers_are_given_once() -> None:
    """Two decisions never share a number."""
    numbers = [adr.name[:4] for adr in ADRS]
    assert len(numbers) == len(set(numbers))


def test_the_repository_holds_no_build_output() -> None:
    """Nothing that a tool makes is committed."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [path for path in tracked if "__pycache__" in path or path.startswith((".venv/", ".data/"))] == []
