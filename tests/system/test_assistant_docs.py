"""The example of docs/assistants.md, run as it stands; only the port is the test's own."""

import re
import subprocess
import sys
from pathlib import Path

from graphs.configuration import SupervisorConfiguration
from tests.support.service import Service

PAGE = (Path(__file__).parents[2] / "docs/assistants.md").read_text("utf-8")


def test_the_example_makes_changes_and_overrules_an_assistant(offline_service: Service) -> None:
    """One answer, and two hand-overs for the reasons that the page gives."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

    done = subprocess.run(
        [sys.executable, "-c", example.replace("http://localhost:8000", offline_service.url)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["billing_support ['transfer-fees']", "specialist_unreachable", "low_confidence"]


def test_the_page_names_every_key_of_the_context() -> None:
    """A key that is added is described."""
    assert [key for key in SupervisorConfiguration.model_fields if f"| `{key}` |" not in PAGE] == []
