"""How a model of an OpenAI-compatible endpoint is set up."""

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from agents.models.limits import ModelLimits
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


def test_no_connection_request_or_gap_between_chunks_lasts_for_ever():
    """Each request brings its role's limits along; the connections are shared by all roles."""
    limits = ModelLimits(connect=1.0, first_token=2.0, between_tokens=3.0, total=12.0)
    model = openai_model("gpt-x", api_key=KEY, limits=limits)

    timeout = model._arguments["timeout"]
    assert (timeout.connect, timeout.read) == (1.0, 12.0)
    assert model._longest_gap == 3.0
    assert inner(limits=limits).root_async_client._client is inner().root_async_client._client


def test_an_endpoint_is_known_by_its_host():
    """Breakers and metrics of two endpoints are never mixed up."""
    assert openai_model("gpt-x", api_key=KEY).provider == "openai"
    assert openai_model("gpt-x", api_key=KEY, base_url="https://models.example:8443/v1").provider == "models.example:8443"


def test_the_key_is_not_in_what_gets_printed():
    """Neither by accident nor in a traceback."""
    assert "sk-secret" not in repr(inner())
