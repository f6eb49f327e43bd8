"""What `PROVIDER_LIMITS` means, and which models it covers."""

import pytest

from app.guards.rate_limits import MOST_PER_MINUTE, Quota, SharedBuckets, parse_quotas, provider_limiters
from app.settings import Settings

MODELS = ("model:openai/gpt-4.1-mini", "model:openai/gpt-4.1-nano", "model:localhost:8001/meta/llama")


def test_a_quota_names_a_model_or_a_provider_and_what_it_may_have_per_minute():
    """Calls, tokens or both, in either order; white space does not matter."""
    quotas = parse_quotas(" openai/gpt-4.1-mini=500rpm, 200000tpm ; openai = 1000rpm;localhost:8001/meta/llama=9tpm,1rpm; ")

    assert quotas == (
        Quota("openai/gpt-4.1-mini", 500, 200_000),
        Quota("openai", 1000),
        Quota("localhost:8001/meta/llama", 1, 9),
    )
    assert parse_quotas("") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("openai", "'openai' must be"),
        ("openai=", "must be"),
        ("=5rpm", "must be"),
        ("openai=5", "must be"),
        ("openai=5 rpm", "must be"),
        ("openai=5rps", "must be"),
        ("openai=-5rpm", "must be"),
        ("openai=5rpm,6rpm", "either amount once"),
        ("openai=5rpm,,6tpm", "must be"),
        ("openai=0rpm", f"from 1 to {MOST_PER_MINUTE}"),
        ("openai=9999999999tpm", f"from 1 to {MOST_PER_MINUTE}"),
        ("openai=5rpm;openai=6tpm", "'openai' is there twice"),
    ],
)
def test_anything_else_is_refused_in_words(text: str, words: str):
    """At start, so that no limit is thought to hold that does not."""
    with pytest.raises(ValueError, match=words):
        parse_quotas(text)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 0),
        ({"API_KEYS": "a:acme"}, 100),
        ({"API_KEYS": "a:acme", "HOST": "0.0.0.0"}, 100),
        ({"HOST": "0.0.0.0", "ALLOW_OPEN": "true"}, 100),
        ({"API_KEYS": "a:acme", "RATE_LIMIT_RPM": "0"}, 0),
        ({"API_KEYS": "a:acme", "RATE_LIMIT_RPM": "7"}, 7),
        ({"RATE_LIMIT_RPM": "7"}, 7),
        ({"RATE_LIMIT_RPM": ""}, 0),
    ],
    ids=str,
)
def test_requests_are_limited_where_others_can_call(variables: dict[str, str], expected: int):
    """A hundred per minute by default, none on this machine without keys; what is set wins."""
    assert Settings.load(variables).requests_per_minute == expected


class Nobody:
    def rate_limit(self, limit: str, outcome: str, *, is_local: bool) -> None: ...


def limiters(text: str):
    return provider_limiters(parse_quotas(text), MODELS, SharedBuckets(None, Nobody()))


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("openai=1rpm", {"model:openai/gpt-4.1-mini", "model:openai/gpt-4.1-nano"}),
        ("openai/gpt-4.1-nano=1rpm", {"model:openai/gpt-4.1-nano"}),
        ("localhost:8001=1tpm", {"model:localhost:8001/meta/llama"}),
        ("localhost:8001/meta/llama=1tpm", {"model:localhost:8001/meta/llama"}),
        ("", set()),
    ],
)
def test_a_limiter_is_made_for_what_is_covered_and_for_nothing_else(text: str, covered: set[str]):
    """Calls of other models never ask Redis."""
    assert set(limiters(text)) == covered


@pytest.mark.parametrize("text", ["openay=1rpm", "openai/gpt-5=1rpm", "gpt-4.1-mini=1rpm", "localhost:8001/meta=1rpm"])
def test_a_quota_of_a_model_that_is_not_used_is_refused(text: str):
    """It would be a limit that does nothing; the text names the models that there are."""
    with pytest.raises(ValueError, match=r"there are: localhost:8001/meta/llama, openai/gpt-4\.1-mini, openai/gpt-4\.1-nano"):
        limiters(text)
