"""What the supervisor accepts, and what it refuses before anything is written."""

import pytest
from langgraph.graph.message import add_messages
from pydantic import ValidationError

from graphs.input import MAX_MESSAGES, MAX_TEXT, SupervisorRequest

HELLO = {"role": "user", "content": "hello"}


def request(*messages, **more) -> SupervisorRequest:
    return SupervisorRequest.model_validate({"messages": list(messages), **more})


@pytest.mark.parametrize(
    ("message", "becomes"),
    [
        (HELLO, "human"),
        ({"type": "human", "content": "hello"}, "human"),
        ({"role": "user", "content": [{"type": "text", "text": "hello"}]}, "human"),
        ({"type": "human", "content": "hello", "additional_kwargs": {}, "response_metadata": {}, "name": None, "example": False}, "human"),
        ({"role": "assistant", "content": "hello"}, "ai"),
        ({"type": "ai", "content": "hello", "tool_calls": [], "invalid_tool_calls": []}, "ai"),
        ({"role": "system", "content": "hello"}, "system"),
        ({"role": "developer", "content": "hello"}, "system"),
        ({"role": "tool", "content": "hello", "tool_call_id": "call-1"}, "tool"),
    ],
)
def test_every_form_that_clients_send_becomes_a_message(message, becomes):
    """What was accepted is what the graph's own reducer can read."""
    given = request(HELLO, message).as_input()["messages"]

    read = add_messages([], given)
    assert (read[1].type, read[1].text) == (becomes, "hello")


@pytest.mark.parametrize(
    "message",
    [
        {"content": "no role"},
        {"role": "pirate", "content": "ahoy"},
        {"role": "user"},
        {"role": "user", "content": ""},
        {"role": "user", "content": " \n\t"},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]},
        {"role": "user", "content": 7},
        {"role": "user", "content": "x" * (MAX_TEXT + 1)},
        {"role": "user", "content": "half a \ud83d letter"},
        {"role": "user", "content": "hello", "id": ""},
        {"role": "user", "content": "hello", "id": "i" * 201},
        {"role": "user", "content": "hello", "name": 7},
        {"role": "user", "content": "hello", "additional_kwargs": 5},
        {"role": "assistant", "content": "hello", "tool_calls": [{"a": 1}]},
        {"role": "tool", "content": "a result without its call"},
    ],
)
def test_what_is_no_message_is_refused(message):
    """Here, and not in the middle of a run."""
    with pytest.raises(ValidationError):
        request(HELLO, message)


def test_the_longest_text_that_is_taken_is_taken():
    """The limit is inclusive."""
    assert len(request({"role": "user", "content": "x" * MAX_TEXT}).messages[0].content) == MAX_TEXT


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "I ask"}], [HELLO] * (MAX_MESSAGES + 1)])
def test_an_input_needs_a_message_of_the_user_and_not_too_many(messages):
    """Somebody must ask something."""
    with pytest.raises(ValidationError):
        request(*messages)


@pytest.mark.parametrize(
    "customer", [{"tier": "gold"}, {"id": ""}, {"id": "c" * 129}, {"locale": "no locale"}, {"locale": "x"}, "C-1001"], ids=str
)
def test_a_customer_that_makes_no_sense_is_refused(customer):
    """A tier that we do not know would silently be a standard one."""
    with pytest.raises(ValidationError):
        request(HELLO, customer=customer)


@pytest.mark.parametrize("locale", ["es", "es-ES", "es_MX", "zh-Hant-TW"])
def test_locales_are_taken_as_the_world_writes_them(locale):
    """With either separator."""
    assert request(HELLO, customer={"locale": locale}).as_input()["customer"] == {"locale": locale}


def test_a_customer_who_was_not_named_is_not_overwritten():
    """The customer of an earlier turn stays, so nothing is sent."""
    assert "customer" not in request(HELLO).as_input()


def test_every_message_gets_an_id_that_is_its_own():
    """Unless it has one; so a run that is started again from this input adds nothing twice."""
    messages = request(HELLO, HELLO, {**HELLO, "id": "mine"}).as_input()["messages"]

    ids = [message["id"] for message in messages]
    assert ids[2] == "mine"
    assert len(set(ids)) == 3
