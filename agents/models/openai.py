"""Models behind any OpenAI-compatible endpoint."""

from __future__ import annotations

from urllib.parse import urlsplit

from langchain_openai import ChatOpenAI
from openai import Timeout
from pydantic import SecretStr

from agents.models.adapter import LangChainModel
from agents.models.limits import ModelLimits

_POOL = 600.0
"""Read limit of the connections that all models of an endpoint share, seconds; each request brings its own."""


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
    model = ChatOpenAI(
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
