"""Models behind any OpenAI-compatible endpoint."""

from __future__ import annotations

from urllib.parse import urlsplit

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from agents.models.adapter import LangChainModel


def openai_model(
    name: str, *, api_key: SecretStr, base_url: str | None = None, chunk_timeout: float = 10.0, timeout: float = 60.0
) -> LangChainModel:
    """`name` at the endpoint `base_url` (None: OpenAI's own).

    Args:
        name: The model's name there.
        api_key: The endpoint's key.
        base_url: Address up to and with `/v1`.
        chunk_timeout: Longest gap between two chunks of a stream, seconds.
        timeout: Last resort on one HTTP request, seconds; the pipeline's attempt timeout is shorter.
    """
    model = ChatOpenAI(
        model=name,
        api_key=api_key,
        base_url=base_url,
        max_retries=0,  # one retry in the whole house (ADR-0003)
        timeout=timeout,
        stream_chunk_timeout=chunk_timeout,
        stream_usage=True,  # off by default as soon as a base_url is set, and then streams cost nothing in our books
    )
    provider = urlsplit(base_url).netloc if base_url else "openai"
    return LangChainModel(model, name=name, provider=provider)
