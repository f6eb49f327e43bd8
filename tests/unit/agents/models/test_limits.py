"""How long each role waits, and that what is configured is what is waited."""

import pytest

from agents.models.limits import FIRST_TOKEN_SHARE, QUICK, ModelLimits, limits_of
from agents.registry import SpecialistRegistry
from agents.runner import MODEL_SHARE
from app.bootstrap.models import model_limits
from app.settings import ModelSettings, Settings, SettingsError

SPECIALISTS = SpecialistRegistry.discover()
RESERVE = 0.2
"""What a fallback leaves to the next model, see `resilience.fallback.Fallback`."""


def configured(**variables: str) -> dict[str, ModelLimits]:
    return dict(model_limits(Settings.load(variables).models, SPECIALISTS))


def test_quick_roles_wait_less_than_specialists():
    """By default; a quick specialist waits for its first token no longer than its own time allows."""
    limits = configured()

    assert limits["routing"] == limits["reasoning"] == QUICK
    assert limits["billing_support"] == ModelLimits()
    assert limits["general_support"] == ModelLimits(first_token=3.0)


def test_limits_are_set_for_all_roles_or_for_one():
    """A role's own win; what is left out keeps its default."""
    limits = configured(LIMITS="connect=1, between_tokens=4", LIMITS_ROUTING="connect=0.5,first_token=2")

    assert limits["routing"] == ModelLimits(connect=0.5, first_token=2.0, between_tokens=4.0, total=10.0)
    assert limits["reasoning"] == ModelLimits(connect=1.0, first_token=5.0, between_tokens=4.0, total=10.0)
    assert limits["billing_support"] == ModelLimits(connect=1.0, between_tokens=4.0)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LIMITS": "patience=1"}, "LIMITS: there is no limit 'patience'; write name=seconds, the names being connect, first_token"),
        ({"LIMITS": "connect"}, "LIMITS: connect must be a number of seconds"),
        ({"LIMITS_ROUTING": "connect=soon"}, "LIMITS_ROUTING: connect must be a number of seconds"),
        ({"LIMITS_ROUTING": "connect=1;total=2"}, "LIMITS_ROUTING: connect must be a number of seconds"),
        ({"LIMITS_NOBODY": "connect=1"}, "LIMITS_NOBODY names no role; there are: LIMITS_BILLING_SUPPORT, LIMITS_GENERAL_SUPPORT"),
        ({"LIMITS": "total=0"}, "LIMITS or LIMITS_<ROLE>: reasoning: total must be more than 0 seconds"),
        ({"LIMITS": "total=nan"}, "total must be more than 0 seconds"),
        ({"LIMITS_ROUTING": "first_token=-1"}, "routing: first_token must be more than 0 seconds"),
    ],
)
def test_nonsense_is_refused_in_words(variables: dict[str, str], said: str):
    """The text names the variable or the role, and says what to write."""
    with pytest.raises(SettingsError) as caught:
        configured(**variables)
    assert said in str(caught.value)


def test_a_model_that_hangs_fails_by_its_own_limit():
    """Whatever is configured: the first attempt ends before the share of time that the first of two models has."""
    assert (1 - RESERVE) * MODEL_SHARE > FIRST_TOKEN_SHARE
    assert configured(LIMITS_ROUTING="total=5")["routing"].first_token == 3.0
    assert configured(LIMITS="total=5")["billing_support"].first_token == 3.0
    assert configured(LIMITS="first_token=60,total=60")["billing_support"].first_token == 9.0


def test_roles_with_the_same_model_and_limits_share_one():
    """And those with other limits get one of their own, of the same name and so with the same breaker."""
    from app.bootstrap.models import model_chains

    chains = model_chains(ModelSettings(base_url="http://127.0.0.1:9/v1"), SPECIALISTS)

    assert chains["billing_support"][0] is chains["technical_support"][0]
    assert chains["general_support"][0] is not chains["billing_support"][0]
    assert len({(model.provider, model.name) for chain in chains.values() for model in chain if model.provider != "offline"}) == 1


def test_what_every_role_may_override_is_checked_with_its_defaults():
    """The roles' errors are told apart by name."""
    with pytest.raises(ValueError, match=r"^routing: "):
        limits_of({"routing": None}, {"": {"connect": -1.0}})
