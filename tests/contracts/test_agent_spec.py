"""What every specialist keeps, whoever writes it; and that a new one is one new file."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agents.controls import CONTROLS
from agents.registry import SpecialistRegistry
from agents.tools.base import Effect, Tool
from graphs.supervisor import build_supervisor

ROOT = Path(__file__).parents[2]
REGISTRY = SpecialistRegistry.discover()
NODES = {"supervise", "reflect", "escalate", "respond"}
ROLES = {"routing", "reasoning", "human", "fallback"}

FOURTH = '''
"""Loyalty: points and what they buy."""

from agents.spec import AgentSpec, load_prompt
from agents.tools.get_customer import get_customer

SPEC = AgentSpec(
    name="loyalty",
    description="Points and what they buy.",
    prompt=load_prompt("loyalty"),
    tools=(get_customer,),
    categories=("points",),
    out_of_scope=(),
    escalate_when="points are missing",
)
'''
WHO_KNOWS_IT = """
import agents
from agents.registry import SpecialistRegistry
from app.bootstrap.models import model_chains
from app.settings import ModelSettings
from graphs.supervisor import build_supervisor

specialists = SpecialistRegistry.discover()
graph = build_supervisor(specialists).compile().get_graph()
settings = ModelSettings(base_url="http://127.0.0.1:9/v1", roles={"loyalty": "its-own-model"})
print(agents.__path__[0])
print(list(specialists))
print("loyalty" in graph.nodes)
print([model.name for model in model_chains(settings, specialists)["loyalty"]])
"""


@pytest.fixture(params=REGISTRY.values(), ids=REGISTRY.keys())
def spec(request):
    return request.param


def test_its_name_is_its_file_and_nobody_elses(spec):
    """The name is also a node, a role and a label, so it must be free as each of them."""
    assert (ROOT / "agents" / "specialists" / f"{spec.name}.py").is_file()
    assert re.fullmatch(r"[a-z][a-z_]*", spec.name)
    assert spec.name not in NODES | ROLES | set(CONTROLS)


def test_its_description_is_one_short_line(spec):
    """The supervisor's model reads it beside those of the others."""
    assert 0 < len(spec.description) < 120
    assert "\n" not in spec.description


def test_its_prompt_is_its_file(spec):
    """Prompts are prose, reviewed as prose."""
    text = (ROOT / "agents" / "prompts" / f"{spec.name}.md").read_text("utf-8")

    assert spec.prompt == text.strip()
    assert spec.prompt


def test_it_says_what_is_its_own_and_when_a_human_must_act(spec):
    """Categories, limits and the criterion are words, not placeholders."""
    assert spec.categories
    assert all(words.strip() for words in (*spec.categories, *spec.out_of_scope, spec.escalate_when))


def test_it_has_limits(spec):
    """Seconds and model calls for one message; within what a request may take."""
    assert 0 < spec.timeout <= 60
    assert 1 <= spec.max_steps <= 12


def test_its_tools_can_be_told_apart(spec):
    """From each other and from the functions that end the work."""
    names = [tool.name for tool in spec.tools]

    assert len(set(names)) == len(names)
    assert not set(names) & set(CONTROLS)


def test_its_tools_can_be_offered_to_a_model(spec):
    """Each has a description, a time limit, a declared effect and an object as its schema, every field described."""
    for tool in spec.tools:
        assert isinstance(tool, Tool)
        assert re.fullmatch(r"[a-z][a-z_]*", tool.name)
        assert tool.description.strip()
        assert 0 < tool.timeout < spec.timeout
        assert isinstance(tool.effect, Effect)
        parameters = tool.schema()["function"]["parameters"]
        assert parameters["type"] == "object"
        assert all(field.get("description") for field in parameters.get("properties", {}).values())


def test_what_it_cannot_undo_is_known_by_name(spec):
    """A new irreversible tool is a decision, so it is named here too."""
    assert {tool.name for tool in spec.tools if tool.effect is Effect.IRREVERSIBLE} <= {"open_refund_request"}


def test_its_behaviour_is_written_down(spec):
    """Every specialist has its own test file."""
    assert (ROOT / "tests" / "unit" / "agents" / "specialists" / f"test_{spec.name}.py").is_file()


def test_it_is_a_node_of_the_graph(spec):
    """Under its own name, so that a stream says who speaks."""
    assert spec.name in build_supervisor(REGISTRY).compile().get_graph().nodes


def test_specialists_come_in_the_same_order_in_every_process():
    """Order reaches the prompt."""
    assert list(REGISTRY) == sorted(REGISTRY)


def with_a_fourth(folder: Path, code: str, program: str) -> subprocess.CompletedProcess[str]:
    """What `program` says in a checkout whose `agents/specialists` has `code` as loyalty.py."""
    shutil.copytree(ROOT / "agents", folder / "agents", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "agents" / "specialists" / "loyalty.py").write_text(code)
    (folder / "agents" / "prompts" / "loyalty.md").write_text("You know points.")
    path = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={**os.environ, **path}, capture_output=True, text=True, check=False
    )


def test_a_fourth_specialist_is_one_new_file(tmp_path):
    """With its file and its prompt in place, discovery, the graph and the models' settings know it."""
    done = with_a_fourth(tmp_path, FOURTH, WHO_KNOWS_IT)

    assert done.stdout.splitlines() == [
        str(tmp_path / "agents"),
        "['billing_support', 'general_support', 'loyalty', 'technical_support']",
        "True",
        "['its-own-model']",
    ], done.stderr


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ('"""Nothing yet."""', "agents/specialists/loyalty.py must export SPEC, an AgentSpec"),
        (FOURTH.replace('"loyalty"', '"points"', 1), "SPEC.name is 'points', it must be the file's name"),
        (FOURTH.replace('load_prompt("loyalty")', 'load_prompt("nowhere")'), "nowhere.md"),
    ],
)
def test_a_file_that_is_no_specialist_is_refused_by_name(tmp_path, code, fault):
    """The service does not start with less than what the folder says."""
    done = with_a_fourth(tmp_path, code, "from agents.registry import SpecialistRegistry; SpecialistRegistry.discover()")

    assert done.returncode != 0
    assert fault in done.stderr
