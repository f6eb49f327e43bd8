"""What a run tells Langfuse, seen from the other side."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.langfuse_receiver import LangfuseReceiver, ReceivedSpan
from tests.support.protocol import ask, new_thread
from tests.support.service import Service
from tests.system.conftest import StartService

QUESTION = "Why was I charged a fee for my transfer? I am ana.perez@example.com"


@pytest.fixture
def receiver() -> Iterator[LangfuseReceiver]:
    with LangfuseReceiver() as found:
        yield found


def traced(service: Service, receiver: LangfuseReceiver, runs: int) -> list[ReceivedSpan]:
    """The spans of `runs` runs."""
    with httpx.Client(base_url=service.url, timeout=60) as http:
        thread_id = new_thread(http)
        for _ in range(runs):
            ask(http, QUESTION, thread_id, id="C-1001")
    assert service.stop() == 0  # what is on its way is sent before the end
    return receiver.wait(lambda spans: [span.name for span in spans].count("supervisor") == runs)


def roots(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    """The spans that are below none that was sent."""
    sent = {span.span_id for span in spans}
    return [span for span in spans if span.parent_id not in sent]


def test_a_run_is_one_trace_with_its_steps_below_the_root(start_service: StartService, receiver: LangfuseReceiver) -> None:
    """supervise with its model call, the specialist with its model and tool calls; nothing hangs in the air."""
    service = start_service(LANGFUSE_PUBLIC_KEY="pk-test", LANGFUSE_SECRET_KEY="sk-test", LANGFUSE_BASE_URL=receiver.url)

    spans = traced(service, receiver, runs=2)

    tops = roots(spans)
    assert [top.name for top in tops] == ["supervisor", "supervisor"]
    assert len({top.trace_id for top in tops}) == 2
    for root in tops:
        below = {span.span_id: span for span in spans if span.trace_id == root.trace_id}
        parents = {(span.name, below[span.parent_id].name) for span in below.values() if span is not root}
        assert {
            ("supervise", "supervisor"),
            ("model:routing", "supervise"),
            ("billing_support", "supervisor"),
            ("model:billing_support", "billing_support"),
            ("search_help_centre", "billing_support"),
        } <= parents
    assert all(span.field("level") in (None, "DEFAULT") for span in spans)


def test_what_identifies_a_person_does_not_leave(start_service: StartService, receiver: LangfuseReceiver) -> None:
    """The address is masked in every span, the question can still be read."""
    service = start_service(LANGFUSE_PUBLIC_KEY="pk-test", LANGFUSE_SECRET_KEY="sk-test", LANGFUSE_BASE_URL=receiver.url)

    text = "\n".join(span.text for span in traced(service, receiver, runs=1))

    assert "ana.perez" not in text
    assert "charged a fee" in text


def test_a_receiver_that_hangs_hangs_no_request(start_service: StartService) -> None:
    """Observing never hurts: answers come, and the process ends, while nobody takes the traces."""
    with LangfuseReceiver(answers=False) as receiver:
        service = start_service(LANGFUSE_PUBLIC_KEY="pk-test", LANGFUSE_SECRET_KEY="sk-test", LANGFUSE_BASE_URL=receiver.url)
        with httpx.Client(base_url=service.url, timeout=60) as http:
            ask(http, QUESTION)
            receiver.wait_for_request()
            begun = [ask(http, QUESTION) for _ in range(3)]
        assert all(values["sources"] == ["transfer-fees"] for values in begun)
        assert service.stop() == 0


def test_without_keys_nothing_is_sent(start_service: StartService, receiver: LangfuseReceiver) -> None:
    """Not even to an address that is known by other means."""
    service = start_service(LANGFUSE_HOST=receiver.url)
    with httpx.Client(base_url=service.url, timeout=60) as http:
        ask(http, QUESTION)
    assert service.stop() == 0

    assert receiver.requests == 0
