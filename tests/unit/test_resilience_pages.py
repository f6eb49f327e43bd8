"""The pages about the policies name tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/resilience").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    """Files, and test functions in one of the files that the page names."""
    text = page.read_text("utf-8")
    files = [ROOT / name for name in re.findall(r"`(tests/[\w/]+\.py)`", text)]
    assert [str(path.relative_to(ROOT)) for path in files if not path.exists()] == []

    code = "\n".join(path.read_text("utf-8") for path in files)
    named = set(re.findall(r"`(test_\w+)`", text))
    assert sorted(name for name in named if f"def {name}(" not in code) == []
