"""Browser tokens: what a product's backend gives to a page instead of its API key (ADR-0035).

`cbt_<claims>.<signature>`: the claims are JSON that anybody may read and nobody may change. Nothing is stored, so a token is good in every
process that knows the secret, and a request that carries one costs no look-up of it.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

import orjson

PREFIX = "cbt_"
"""How every token begins, so that a key that is pasted for one, or one that leaks into a log, can be told by its looks."""
MAX_TOKEN = 4096
"""Longest token, characters: what is longer cannot be ours and is not hashed."""
SUBJECT = "browser_subject"
"""Key of a thread's metadata that says which subject's browsers may see it; an API key may write it like any other."""
_VERSION = b"capataz browser token 1\n"


@dataclass(frozen=True, slots=True)
class BrowserGrant:
    """What a browser may do, and as whom.

    Args:
        tenant: Whose service it talks to.
        key_id: Whose API key asked for the token; the token ends with the key.
        subject: Who sits there; threads are seen by the subject that made them, with whichever of its tokens.
        expires_at: When it ends, seconds since 1970.
        assistant_id: The assistant that it may run.
        customer: Who asks, as the backend knows it; a browser's own word does not count.
        origin: The page that may use it; empty: any that CORS lets through.
        may_approve: Whether it may answer what a run asks a human: true for a desk of one's own staff, never for customers.
    """

    tenant: str
    key_id: str
    subject: str
    expires_at: int
    assistant_id: str
    customer: dict[str, str] = field(default_factory=dict)
    origin: str = ""
    may_approve: bool = False


class TokenInvalid(Exception):
    """The token is none of ours, or was changed."""


class TokenExpired(Exception):
    """The token was good once."""


class BrowserTokens:
    """Signs tokens and reads them.

    Args:
        secrets: The first signs, all are believed; none: no token is issued or believed.
        now: Seconds since 1970.
    """

    def __init__(self, secrets: Sequence[str], *, now: Callable[[], float]) -> None:
        self._secrets = [secret.encode() for secret in secrets]
        self._now = now

    @property
    def are_issued(self) -> bool:
        """Whether there is a secret to sign with."""
        return bool(self._secrets)

    def now(self) -> float:
        """The time by which tokens end, seconds since 1970."""
        return self._now()

    def issue(self, grant: BrowserGrant) -> str:
        """The grant as a token."""
        claims = urlsafe_b64encode(orjson.dumps(asdict(grant))).rstrip(b"=")
        return f"{PREFIX}{claims.decode()}.{_signature(self._secrets[0], claims)}"

    def read(self, token: str) -> BrowserGrant:
        """What the token grants.

        Raises:
            TokenInvalid: It was not signed here.
            TokenExpired: Its time is over.
        """
        claims, dot, signature = token.removeprefix(PREFIX).partition(".")
        if not (dot and token.startswith(PREFIX) and len(token) <= MAX_TOKEN and token.isascii()):
            raise TokenInvalid
        expected = [_signature(secret, claims.encode()) for secret in self._secrets]
        if not any(hmac.compare_digest(signature, ours) for ours in expected):
            raise TokenInvalid
        grant = _grant(orjson.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4))))
        if grant.expires_at <= self._now():
            raise TokenExpired
        return grant


def _signature(secret: bytes, claims: bytes) -> str:
    digest = hmac.new(secret, _VERSION + claims, sha256).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _grant(claims: dict[str, Any]) -> BrowserGrant:
    return BrowserGrant(**claims)
