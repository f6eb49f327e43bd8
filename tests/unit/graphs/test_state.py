"""What belongs to one turn, and how its sums are made."""

import json

import pytest

from agents.models.port import Degradation
from agents.usage import Usage
from graphs.state import SupervisorState, UsageState, add_usage, degraded_by, new_turn

KEPT = {"messages", "customer"}


def test_a_new_turn_resets_all_that_belongs_to_a_turn():
    """A key that somebody adds and forgets to reset is found here."""
    assert set(new_turn("t", "en")) == set(SupervisorState.__annotations__) - KEPT


def test_a_new_turn_is_plain_data():
    """It goes into a checkpoint."""
    assert json.loads(json.dumps(new_turn("t", "en"))) == new_turn("t", "en")


def test_turns_share_nothing():
    """Their lists are their own."""
    assert new_turn("t", "en")["visits"] is not new_turn("t", "en")["visits"]


def test_usage_adds_up():
    """Tokens and money."""
    total = add_usage(UsageState(input_tokens=1, output_tokens=2, cost_usd=0.1), Usage(10, 20, 0.2))

    assert (total["input_tokens"], total["output_tokens"]) == (11, 22)
    assert total["cost_usd"] == pytest.approx(0.3)


def test_the_same_degradation_is_told_once():
    """New ones follow the old ones in their order."""
    old = degraded_by([], [Degradation("a", "out")])

    assert degraded_by(old, [Degradation("a", "out"), Degradation("b", "slow")]) == [
        {"what": "a", "why": "out"},
        {"what": "b", "why": "slow"},
    ]
