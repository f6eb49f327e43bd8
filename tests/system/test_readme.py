"""The README's examples, run as they stand; only the port is the test's own."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import Service

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLES = dict.fromkeys(re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL))
CURL, LANGGRAPH_SDK, OPENAI, SPECIALIST = (
    next(code for _, code in EXAMPLES if mark in code) for mark in ("curl -s", "langgraph_sdk", "openai", "AgentSpec(")
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The very command of `make run`."""
    service = Service(tmp_path_factory.mktemp("service"), as_command=True)
    try:
        yield service.start()
    finally:
        assert service.stop() == 0


def run(command: list[str], code: str, service: Service) -> str:
    assert "http://localhost:8000" in code
    done = subprocess.run(
        [*command, code.replace("http://localhost:8000", service.url)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("curl")
def test_the_curl_example_is_answered_from_an_article(service: Service) -> None:
    """The first thing a newcomer types gives a routed answer that names its article."""
    answer = run(["bash", "-c"], CURL, service)

    assert '"specialist":"billing_support"' in answer
    assert '"sources":["transfer-fees"]' in answer
    assert "What a transfer costs" in answer


def test_the_langgraph_sdk_example_streams_two_turns(service: Service) -> None:
    """The second question is answered from the first turn."""
    answer = run([sys.executable, "-c"], LANGGRAPH_SDK, service)

    first, _, second = answer.partition("\n\n(Modo sin conexión")
    assert "INV-2026-0311" in first
    assert "INV-2026-0311" in second
    assert "INV-2026-0342" not in second


def test_the_openai_example_streams_an_answer(service: Service) -> None:
    """Any OpenAI client is a client of the service."""
    assert "PIN" in run([sys.executable, "-c"], OPENAI, service)


def test_the_specialist_example_is_complete(tmp_path: Path) -> None:
    """The spec as shown, with a prompt, is found by the registry of a copy of the product."""
    copy = "import shutil, sys; [shutil.copytree(f'{sys.argv[1]}/{name}', name) for name in ('agents', 'resilience')]"
    subprocess.run([sys.executable, "-c", copy, str(ROOT)], cwd=tmp_path, check=True)
    (tmp_path / "agents/specialists/shipping_support.py").write_text(SPECIALIST, "utf-8")
    (tmp_path / "agents/prompts/shipping_support.md").write_text("You know where parcels are.", "utf-8")

    found = subprocess.run(
        [sys.executable, "-c", "from agents.registry import SpecialistRegistry; print(list(SpecialistRegistry.discover()))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "shipping_support" in found.stdout


def test_every_variable_of_the_readme_exists() -> None:
    """The table of variables names only what the settings read."""
    from app.settings import Settings

    named = set(re.findall(r"`([A-Z][A-Z_]+)`", README.split("## Configure")[1].split("## Add")[0]))
    assert named - Settings.variables() <= {"MODEL_ROUTING", "MODEL_REASONING"}


def test_every_file_the_readme_names_exists() -> None:
    """Links within the repository lead somewhere."""
    links = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
