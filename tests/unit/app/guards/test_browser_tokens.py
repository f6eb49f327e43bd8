"""Browser tokens: who may read, change and outlive them."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace

import orjson
import pytest

from app.guards.browser_tokens import MAX_TOKEN, PREFIX, BrowserGrant, BrowserTokens, TokenExpired, TokenInvalid

GRANT = BrowserGrant(
    tenant="acme", key_id="0" * 16, subject="C-1001", expires_at=1_900, assistant_id="supervisor", customer={"id": "C-1001", "tier": "vip"}
)
OLD, NEW = "o" * 32, "n" * 32


def tokens(*secrets: str, now: float = 1_000.0) -> BrowserTokens:
    return BrowserTokens(secrets, now=lambda: now)


def test_a_token_says_what_it_was_given_in_every_process_that_knows_the_secret() -> None:
    """Nothing is stored: another object with the same secret reads it."""
    token = tokens(NEW).issue(GRANT)

    assert token.startswith(PREFIX)
    assert tokens(NEW).read(token) == GRANT


def test_a_token_ends_at_its_time() -> None:
    """Good until the second before, and not at it."""
    token = tokens(NEW).issue(GRANT)

    assert tokens(NEW, now=1_899.9).read(token) == GRANT
    with pytest.raises(TokenExpired):
        tokens(NEW, now=1_900.0).read(token)


def test_a_secret_can_be_changed_without_sending_anybody_away() -> None:
    """The first of the secrets signs, the others are still believed; one that is gone is not."""
    before = tokens(OLD).issue(GRANT)
    after = tokens(NEW, OLD).issue(GRANT)

    assert tokens(NEW, OLD).read(before) == tokens(NEW).read(after) == GRANT
    with pytest.raises(TokenInvalid):
        tokens(NEW).read(before)


def test_no_secret_issues_and_believes_nothing() -> None:
    """Not even what was signed with an empty one."""
    token = tokens("").issue(GRANT)

    assert not tokens().are_issued
    with pytest.raises(TokenInvalid):
        tokens().read(token)


def test_whoever_changes_a_claim_has_no_token() -> None:
    """Another tier, another time, another tenant under the old signature."""
    claims, _, signature = tokens(NEW).issue(GRANT).removeprefix(PREFIX).partition(".")
    known = orjson.loads(urlsafe_b64decode(claims + "=="))

    for change in ({"expires_at": 9_999}, {"tenant": "globex"}, {"customer": {"id": "C-1"}}, {"may_approve": True}):
        forged = urlsafe_b64encode(orjson.dumps({**known, **change})).rstrip(b"=").decode()
        with pytest.raises(TokenInvalid):
            tokens(NEW).read(f"{PREFIX}{forged}.{signature}")


@pytest.mark.parametrize(
    "token", ["", PREFIX, f"{PREFIX}.", f"{PREFIX}e30.", "e30.e30", f"{PREFIX}é.é", f"{PREFIX}{'A' * MAX_TOKEN}.A", f"{PREFIX}e30"]
)
def test_what_is_no_token_is_refused_without_a_crash(token: str) -> None:
    """Whatever somebody sends in its place."""
    with pytest.raises(TokenInvalid):
        tokens(NEW).read(token)


def test_no_two_grants_share_a_token() -> None:
    """Every claim is signed."""
    issue = tokens(NEW).issue
    assert len({issue(GRANT), issue(replace(GRANT, origin="https://a.example")), issue(replace(GRANT, subject="C-1002"))}) == 3
