"""When a human takes over by rule, whatever a model thinks."""

import json
from pathlib import Path

import pytest

from graphs.escalation_rules import escalation_reason, order_reference

MESSAGES = Path(__file__).parents[3] / "benchmarks" / "data" / "messages.jsonl"

CANCELLATIONS = [
    "I want to cancel my account",
    "Cancel my subscription please",
    "please close my account",
    "how do I delete my account?",
    "I'd like my account closed",
    "terminate the account today",
    "shut down my account",
    "Quiero cancelar mi cuenta",
    "cancelen mi suscripción",
    "quiero darme de baja",
    "QUIERO DARME DE BAJA YA",
    "solicito la baja",
    "dame de baja por favor",
    "que me den de baja",
    "dar de baja el servicio",
    "cierren mi cuenta",
    "quiero cerrar la cuenta",
    "cómo elimino mi cuenta",
    "anular el plan",
    "je veux résilier mon contrat",
    "ich möchte mein Konto kündigen",
    "quero encerrar minha conta",
    "voglio disdire l'abbonamento",
]
REFUNDS = [
    "I want a refund",
    "refund me for AZ-10234",
    "give me my money back",
    "I'd like to be reimbursed",
    "I will file a chargeback",
    "opening a charge back with my bank",
    "return my money",
    "Quiero un reembolso",
    "reembólsenme el pedido",
    "quiero la devolución de mi dinero",
    "necesito una devolucion",
    "devuélvanme mi dinero",
    "que me devuelvan lo que pagué",
    "quiero mi dinero de vuelta",
    "regrésenme mi dinero",
    "exijo el reintegro",
    "je veux un remboursement",
    "ich will mein Geld zurück",
    "quero meu dinheiro de volta, peço reembolso",
    "voglio il rimborso",
]
WANTS_SOMEBODY = [
    "let me talk to a human",
    "I want to speak to a manager",
    "get me a real person",
    "can I chat with an agent?",
    "quiero hablar con una persona",
    "pásame con un agente",
    "comuníqueme con su supervisor",
    "necesito que me atienda un humano",
]
ANGRY = [
    "This is unacceptable",
    "worst service ever",
    "I am fed up with this app",
    "where is my card!!!",
    "I'll call my lawyer",
    "esto es inaceptable",
    "estoy harta de esperar",
    "menuda estafa",
    "estoy muy molesto",
    "voy a denunciarlos",
]
HARMLESS = [
    "How do I activate my card?",
    "why was I charged a fee?",
    "my top-up is pending",
    "can you change the language of the app",
    "is there a limit for transfers",
    "close the app and open it again?",
    "what is my account number",
    "delete the old photo in the app",
    "do you have cashback?",
    "my card arrived, thanks!",
    "¿cómo activo mi tarjeta?",
    "¿por qué me cobraron una comisión?",
    "¿cuándo llega mi pedido?",
    "no puedo cerrar sesión",
    "el límite me parece bajo",
    "borrar una foto de la app",
    "¿se puede bajar la comisión?",
    "mi factura de noviembre",
    "hola",
    "",
]


@pytest.mark.parametrize("text", CANCELLATIONS)
def test_a_wish_to_cancel_goes_to_a_human(text):
    """In every language we know stems of, whatever the tier."""
    assert escalation_reason(text, is_vip=False) == escalation_reason(text, is_vip=True) == "cancellation_requested"


@pytest.mark.parametrize("text", REFUNDS)
def test_a_wish_to_be_refunded_goes_to_a_human(text):
    """Or, with an order, to the desk that prepares it; that is the supervisor's to decide."""
    assert escalation_reason(text, is_vip=False) == escalation_reason(text, is_vip=True) == "refund_requested"


@pytest.mark.parametrize("text", WANTS_SOMEBODY)
def test_a_vip_who_asks_for_somebody_gets_somebody(text):
    """For others the model weighs the wish."""
    assert escalation_reason(text, is_vip=True) == "vip_asked_for_human"
    assert escalation_reason(text, is_vip=False) is None


@pytest.mark.parametrize("text", ANGRY)
def test_an_angry_vip_gets_somebody(text):
    """For others anger alone is no rule."""
    assert escalation_reason(text, is_vip=True) == "vip_is_angry"
    assert escalation_reason(text, is_vip=False) is None


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_questions_are_the_models(text):
    """For every tier."""
    assert escalation_reason(text, is_vip=False) is None
    assert escalation_reason(text, is_vip=True) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("does it cover cancelled flight insurance?", "cancellation_requested"),
        ("can I cancel a transfer?", "cancellation_requested"),
        ("what is your refund policy?", "refund_requested"),
        ("quiero darme de baja del boletín", "cancellation_requested"),
    ],
)
def test_a_mention_is_taken_for_a_wish(text, reason):
    """The rules cannot tell the two apart, and a human who was not needed costs less than a wish that was not heard."""
    assert escalation_reason(text, is_vip=False) == reason


def test_cancelling_comes_before_refunding_and_both_before_a_vips_mood():
    """One reason is told: the one that weighs most."""
    assert escalation_reason("Cancel my account and refund me, this is unacceptable", is_vip=True) == "cancellation_requested"
    assert escalation_reason("Refund me! This is unacceptable, get me a human", is_vip=True) == "refund_requested"
    assert escalation_reason("This is unacceptable, get me a human", is_vip=True) == "vip_asked_for_human"


@pytest.mark.parametrize("is_vip", [False, True])
def test_real_questions_raise_no_false_alarm(is_vip):
    """At most 2 % of the public messages whose label is not `human` are taken away from the specialists."""
    rows = [json.loads(line) for line in MESSAGES.read_text("utf-8").splitlines()]
    texts = [row["text"] for row in rows if row["label"] != "human"]

    alarms = [text for text in texts if escalation_reason(text, is_vip=is_vip)]

    assert len(texts) > 400
    assert len(alarms) <= 0.02 * len(texts), alarms


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("refund AZ-10234 please", "AZ-10234"),
        ("pedido az-10234", "AZ-10234"),
        ("AZ-10234 and AZ-10198", "AZ-10234"),
        ("invoice INV-2026-0311", None),
        ("call 555-10234", None),
        ("AZ-1", None),
        ("", None),
    ],
)
def test_an_order_is_known_by_the_shape_of_its_number(text, order):
    """As the shop writes it, in whatever case; the first of several; invoices are no orders."""
    assert order_reference(text) == order
