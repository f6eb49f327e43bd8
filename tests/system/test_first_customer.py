"""What the first customer meets: `make run` with nothing configured, and real questions."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.protocol import TERMINAL, ask, events, new_thread, says, stream
from tests.support.provider import Reply, concludes, is_routing, routes_to
from tests.support.service import Service
from tests.system.conftest import StartProvider, StartService

ROOT = Path(__file__).parents[2]
DATA = ROOT / "benchmarks" / "data"
ARTICLES = ROOT / "agents" / "demo" / "help_centre"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def title(article: str, language: str) -> str:
    text = (ARTICLES / language / f"{article}.md").read_text("utf-8")
    return next(line.removeprefix("title: ") for line in text.splitlines() if line.startswith("title: "))


LABELS = json.loads((DATA / "retrieval_labels.json").read_text("utf-8"))
MESSAGES = [row for row in rows("messages.jsonl")[::8] if LABELS.get(row["source"], {}).get(row["intent"])]
QUESTIONS = rows("retrieval_questions.jsonl")
COVERED = [row for row in QUESTIONS if row["articles"] and row["lang"] == "es"][::4]
UNCOVERED = [row for row in QUESTIONS if not row["articles"]]


def test_answers_to_real_questions_name_the_article_they_rest_on(http: httpx.Client) -> None:
    """Of real messages of two public collections every answer quotes its article; at least four of five quote one that fits."""
    fitting = []
    for row in MESSAGES:
        values = ask(http, row["text"])
        if values["escalation"]:
            continue
        assert values["specialist"], row
        articles = [source for source in values["sources"] if not source.startswith("status:")]
        if articles:
            assert title(articles[0], "en") in values["answer"], row
        else:
            assert "incident" in values["answer"], row
        fitting.append(bool({*values["sources"]} & {*LABELS[row["source"]][row["intent"]]}))

    assert len(fitting) >= len(MESSAGES) / 2
    assert sum(fitting) >= 0.8 * len(fitting)


def test_questions_in_spanish_are_answered_in_spanish(http: httpx.Client) -> None:
    """Whatever answers, the article or the hand-over, does so in the customer's language."""
    answered = 0
    for row in COVERED:
        values = ask(http, row["text"])
        if values["escalation"]:
            assert "una persona de nuestro equipo" in values["answer"], row
        else:
            answered += 1
            assert title(values["sources"][0], "es") in values["answer"], row
            assert "Modo sin conexión" in values["answer"]

    assert answered >= len(COVERED) / 2


@pytest.mark.parametrize("row", UNCOVERED, ids=lambda row: row["id"])
def test_a_question_that_no_article_covers_ends_with_a_human(http: httpx.Client, row: dict[str, Any]) -> None:
    """It is not answered from the nearest article: the customer is told so, and a human gets the question."""
    values = ask(http, row["text"])

    assert values["escalation"]["reason"] == "low_confidence"
    assert values["escalation"]["context"]["question"] == row["text"]
    assert values["sources"] == []
    assert ("persona de nuestro equipo" if row["lang"] == "es" else "person on our team") in values["answer"]


def test_who_wants_to_leave_is_handed_to_a_human_with_the_whole_context(http: httpx.Client) -> None:
    """The human gets what was asked and said before, who asks, and why it stopped."""
    thread_id = new_thread(http)
    first = ask(http, "¿Por qué me han cobrado comisión por la transferencia?", thread_id, id="C-1001")

    values = ask(http, "quiero cancelar mi cuenta", thread_id, id="C-1001")

    escalation = values["escalation"]
    assert escalation["reason"] == "cancellation_requested"
    assert escalation["summary"]
    context = escalation["context"]
    assert {"question", "conversation", "customer", "language", "decision", "tried", "found", "draft", "why"} <= context.keys()
    assert context["question"] == "quiero cancelar mi cuenta"
    assert context["customer"]["id"] == "C-1001"
    assert context["language"] == "es"
    said = [turn["text"] for turn in context["conversation"]]
    assert said[0] == "¿Por qué me han cobrado comisión por la transferencia?"
    assert first["answer"] in said
    assert said[-1] == "quiero cancelar mi cuenta"


@pytest.mark.parametrize(
    ("text", "tier", "reason"),
    [
        ("Quiero hablar con una persona", "vip", "vip_asked_for_human"),
        ("I want to speak to a real person", "vip", "vip_asked_for_human"),
        ("This is unacceptable, my PIN is blocked again", "vip", "vip_is_angry"),
        ("¡Esto es inaceptable! La aplicación no me deja cambiar el PIN", "vip", "vip_is_angry"),
        ("I want a refund", "standard", "refund_requested"),
        ("Quiero que me devolváis el dinero, exijo un reembolso", "vip", "refund_requested"),
    ],
)
def test_the_rules_of_the_house_come_before_every_model(http: httpx.Client, text: str, tier: str, reason: str) -> None:
    """A VIP who asks for a human or is angry gets one, and so does everybody who wants money back."""
    assert ask(http, text, tier=tier)["escalation"]["reason"] == reason


def test_an_angry_customer_who_is_no_vip_is_answered(http: httpx.Client) -> None:
    """The same words without the tier get the article."""
    values = ask(http, "This is unacceptable, my PIN is blocked again", tier="standard")

    assert values["escalation"] is None
    assert values["sources"] == ["pin-blocked"]


def test_a_refund_of_a_known_order_is_prepared_for_a_human(http: httpx.Client) -> None:
    """The order is looked up, the request is ready to be sent, and nobody has sent it."""
    values = ask(http, "Quiero un reembolso del pedido AZ-10234", id="C-1001")

    asked = values["__interrupt__"][0]["value"]
    assert asked["tool"] == "open_refund_request"
    assert asked["arguments"]["order_id"] == "AZ-10234"
    assert [finding["tool"] for finding in asked["found"]] == ["find_order"]
    assert "aprobar" in asked["notice"]


def test_an_order_of_somebody_else_is_not_refunded(http: httpx.Client) -> None:
    """Without an order of this customer nothing is prepared."""
    values = ask(http, "Quiero un reembolso del pedido AZ-10234", id="C-1004")

    assert "action" not in ((values["escalation"] or {}).get("context") or {})
    assert "58.00" not in values["answer"]


def test_the_answer_arrives_token_by_token(http: httpx.Client) -> None:
    """A stream begins with `metadata`, carries the answer word by word under growing ids, and ends with one terminal event."""
    path = f"/threads/{new_thread(http)}/runs/stream"
    response, came = stream(http, path, {**says("What happens if I forget my PIN?"), "stream_mode": ["messages-tuple", "values"]})

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    ids = [event.id for event in came]
    assert ids == sorted(set(ids))
    assert came[0].name == "metadata"
    assert came[-1].name == "end"
    assert came[-1].data == {"run_id": came[0].data["run_id"], "status": "success"}
    assert [event.name for event in came if event.name in TERMINAL] == ["end"]
    final = [event for event in came if event.name == "values"][-1].data
    spoken = [
        chunk for event in came if event.name == "messages" for chunk in [event.data[0]] if chunk["id"] == final["messages"][-1]["id"]
    ]
    assert len([chunk for chunk in spoken if chunk["content"]]) > 10
    assert "".join(chunk["content"] for chunk in spoken) == final["answer"]


def test_a_token_is_read_while_the_next_is_not_yet_said(start_service: StartService, start_provider: StartProvider) -> None:
    """Nothing between model and reader keeps tokens back: the second half of the answer is said only after the first was read."""
    half_read = threading.Event()

    def behaviour(request: dict[str, Any]) -> Reply:
        if is_routing(request):
            return routes_to("technical_support")
        return replace(concludes("one two three four five six seven eight"), waits_after=(4, half_read))

    provider = start_provider(behaviour)
    service = start_service(OPENAI_BASE_URL=provider.url)
    with httpx.Client(base_url=service.url, timeout=60) as http:
        thread_id, read = new_thread(http), ""
        body = {**says("count to eight"), "stream_mode": ["messages-tuple"]}
        with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
            for event in events(response):
                read += event.data[0]["content"] if event.name == "messages" else ""
                if read == "one two three four" and not half_read.is_set():
                    assert http.get(f"/threads/{thread_id}").json()["status"] == "busy"
                    half_read.set()

    assert half_read.is_set()
    assert read.startswith("one two three four five six seven eight")


def test_a_conversation_survives_the_death_of_the_service(start_service: StartService) -> None:
    """A follow-up after kill -9 and a new start is answered from the turn before."""
    service: Service = start_service()
    with httpx.Client(base_url=service.url, timeout=60) as http:
        thread_id = new_thread(http)
        first = ask(http, "Muéstrame mis facturas", thread_id, id="C-1001")
    second_line = next(line for line in first["answer"].splitlines() if line.startswith("2. "))
    invoice = re.search(r"INV-\d{4}-\d{4}", second_line)
    assert invoice is not None

    service.kill()
    service.start()

    with httpx.Client(base_url=service.url, timeout=60) as http:
        values = ask(http, "¿y la segunda factura?", thread_id, id="C-1001")
    assert values["sources"] == [invoice.group()] == ["INV-2026-0311"]
    assert "7.99 €" in values["answer"]
    assert [message["content"] for message in values["messages"] if message["type"] == "human"] == [
        "Muéstrame mis facturas",
        "¿y la segunda factura?",
    ]
