"""Models behind any OpenAI-compatible endpoint."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import LanguageModelInput
from langchain_openai import ChatOpenAI
from openai import Timeout
from pydantic import SecretStr

from agents.models.adapter import LangChainModel
from agents.models.limits import ModelLimits

_POOL = 600.0
"""Read limit of the connections that all models of an endpoint share, seconds; each request brings its own."""
_FOR_THE_CLIENT = frozenset({"model", "stream", "timeout", "extra_headers", "extra_query"})
"""Arguments of a request that the client itself needs to see; the others only travel."""


class PlainChatOpenAI(ChatOpenAI):
    """`ChatOpenAI` whose requests are sent as LangChain wrote them.

    The client goes through every request by the types of its fields, for names that it might have to change, which are none here; for
    answers with a schema it also makes types that nobody reads. That was a sixth of a run's CPU time (ADR-0043). It leaves `extra_body`
    alone, so what it need not see travels there.
    """

    def _get_request_payload(self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        if self._use_responses_api(payload):  # another route, with another body
            return payload
        body = {name: value for name, value in payload.items() if name not in _FOR_THE_CLIENT}
        body.update(body.pop("extra_body", None) or {})
        return {**{name: payload[name] for name in _FOR_THE_CLIENT & payload.keys()}, "messages": [], "extra_body": body}


def openai_model(name: str, *, api_key: SecretStr, base_url: str | None = None, limits: ModelLimits | None = None) -> LangChainModel:
    """`name` at the endpoint `base_url` (None: OpenAI's own).

    The HTTP client keeps the wait for a connection, the adapter the gap between two tokens, the pipeline the other limits; `total` is
    also the last resort on one HTTP request.

    Args:
        name: The model's name there.
        api_key: The endpoint's key.
        base_url: Address up to and with `/v1`.
        limits: How long the role waits that this is for; None: as a specialist does.
    """
    limits = limits or ModelLimits()
    model = PlainChatOpenAI(
        model=name,
        api_key=api_key,
        base_url=base_url,
        max_retries=0,  # one retry in the whole house (ADR-0003)
        timeout=_POOL,
        stream_chunk_timeout=0.0,  # ours is kept by the adapter, which says why
        stream_usage=True,  # off by default as soon as a base_url is set, and then streams cost nothing in our books
    )
    provider = urlsplit(base_url).netloc if base_url else "openai"
    # With the request and not with the client: the clients of all roles then share one pool of connections.
    timeout = Timeout(limits.total, connect=limits.connect)
    return LangChainModel(model, name=name, provider=provider, arguments={"timeout": timeout}, longest_gap=limits.between_tokens)
