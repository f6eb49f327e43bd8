"""How a model of an OpenAI-compatible endpoint is set up."""

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from agents.models.openai import openai_model

KEY = SecretStr("sk-secret")


def inner(**options) -> ChatOpenAI:
    model = openai_model("gpt-x", api_key=KEY, **options)._model
    assert isinstance(model, ChatOpenAI)
    return model


def test_the_client_never_tries_again_by_itself():
    """One retry in the whole house (ADR-0003), and it is ours."""
    model = inner()

    assert model.max_retries == 0
    assert model.root_async_client.max_retries == 0


def test_streams_are_billed_wherever_they_come_from():
    """Usage is asked for even where the library would not."""
    assert inner(base_url="http://127.0.0.1:8080/v1").stream_usage is True


def test_no_request_and_no_gap_between_chunks_lasts_for_ever():
    """Last resorts behind the pipeline's own limits, in seconds."""
    model = inner(timeout=12.0, chunk_timeout=3.0)

    assert (model.request_timeout, model.stream_chunk_timeout) == (12.0, 3.0)


def test_an_endpoint_is_known_by_its_host():
    """Breakers and metrics of two endpoints are never mixed up."""
    assert openai_model("gpt-x", api_key=KEY).provider == "openai"
    assert openai_model("gpt-x", api_key=KEY, base_url="https://models.example:8443/v1").provider == "models.example:8443"


def test_the_key_is_not_in_what_gets_printed():
    """Neither by accident nor in a traceback."""
    assert "sk-secret" not in repr(inner())
