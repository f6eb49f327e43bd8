"""How faults are configured: on purpose, or not at all."""

import json
from pathlib import Path

import pytest

from app.main import _banner
from app.settings import Settings, SettingsError

PLAN = {"seed": 7, "faults": [{"dependency": "model:*", "errors": 0.2, "latency": {"median": 0.5, "sigma": 0.5}, "from": 5, "to": 60}]}


def test_faults_are_off_unless_configured():
    """Nothing is injected, and nothing is said of it."""
    settings = Settings.load({})

    assert settings.guards.chaos is None
    assert "CHAOS" not in _banner(settings)


@pytest.mark.parametrize("is_file", [False, True], ids=["as JSON", "in a file"])
def test_a_plan_is_json_or_a_file_with_it(tmp_path: Path, is_file: bool):
    """And whoever starts the service is told in capitals."""
    text = json.dumps(PLAN)
    if is_file:
        (tmp_path / "plan.json").write_text(text)
        text = str(tmp_path / "plan.json")

    settings = Settings.load({"CHAOS_PLAN": text})

    plan = settings.guards.chaos
    assert plan is not None
    assert plan.model_dump(by_alias=True, exclude_unset=True, mode="json") == PLAN
    assert "CHAOS    FAULTS ARE INJECTED ON PURPOSE into model:* (unset CHAOS_PLAN to stop it)" in _banner(settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no-such-file.json", "CHAOS_PLAN: must be a JSON object or the path of a file that holds one; reading it failed: No such file"),
        ("{half", "CHAOS_PLAN: is no JSON: Expecting property name"),
        ('{"faults": []}', "CHAOS_PLAN.faults: Tuple should have at least 1 item"),
        ('{"faults": [{"dependency": "*", "errors": 2}]}', "CHAOS_PLAN.faults.0.errors: Input should be less than or equal to 1"),
        ('{"faults": [{"dependency": "*", "eror": 1}]}', "CHAOS_PLAN.faults.0.eror: Extra inputs are not permitted"),
        ('{"faults": [{"dependency": "*"}]}', "CHAOS_PLAN.faults.0: does nothing: give it latency, hangs, errors or garbage"),
    ],
)
def test_a_plan_with_a_mistake_stops_the_start(text: str, says: str):
    """The text says what is wrong and where."""
    with pytest.raises(SettingsError) as caught:
        Settings.load({"CHAOS_PLAN": text})

    assert says in str(caught.value)
