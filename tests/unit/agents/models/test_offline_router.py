"""The offline router: rules, weights, and what it does when its favourite is not offered."""

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from agents.models.offline.conversation import Turn
from agents.models.offline.router import NEXT_BEST, Decision, Router
from agents.models.offline.weights import Weights
from benchmarks.train_router import WEIGHTS, digest, read_rows

EVERYBODY = ("billing_support", "general_support", "technical_support", "human")


def decide(text: str, *, offered: tuple[str, ...] = EVERYBODY, before: tuple[BaseMessage, ...] = ()) -> Decision:
    return Router.bundled().decide(Turn.read([*before, HumanMessage(text)]), offered)


def answered_by(name: str) -> tuple[BaseMessage, ...]:
    return HumanMessage("¿Qué facturas tengo?"), AIMessage("1. INV-2026-0342\n2. INV-2026-0311", name=name)


def test_the_committed_weights_belong_to_the_committed_messages_and_lexicon() -> None:
    """Whoever changes a row, a label, the lexicon or a feature runs `python -m benchmarks.train_router` again."""
    assert Weights.bundled().inputs == digest(read_rows("messages.jsonl"))


def test_the_weights_stay_small_enough_to_ship() -> None:
    """Under 300 kB."""
    assert WEIGHTS.stat().st_size < 300_000


def test_weights_survive_the_file_they_are_written_to() -> None:
    """Reading what was written gives the same weights."""
    weights = Weights(("a", "b"), (0.5, -0.5), {"c:fee": (1.0, -1.0)}, "digest")

    assert Weights.from_json(weights.as_json()) == weights


def test_probabilities_add_up_and_unknown_features_weigh_nothing() -> None:
    """A feature that training has not seen changes nothing."""
    weights = Weights(("a", "b"), (0.0, 0.0), {"c:fee": (1.0, -1.0)})
    known = weights.probabilities({"c:fee": 1.0})

    assert sum(known.values()) == pytest.approx(1.0)
    assert known["a"] > known["b"]
    assert weights.probabilities({"c:fee": 1.0, "w:never": 1.0}) == known


@pytest.mark.parametrize(
    "text",
    [
        "I want to cancel my account",
        "please close my account",
        "Quiero cancelar mi cuenta",
        "necesito darme de baja",
        "Je veux résilier mon contrat",
        "Ich möchte mein Konto kündigen",
        "quero encerrar minha conta",
        "voglio disdire l'abbonamento",
        "I want a refund",
        "give me my money back",
        "devuélvanme el dinero de la compra",
        "je veux être remboursé",
        "Ich will eine Rückerstattung",
        "quero um reembolso",
        "voglio un rimborso",
        "let me speak to a human",
        "quiero hablar con una persona",
        "I lost my card",
        "me robaron la tarjeta",
        "I do not recognise this payment",
        "no reconozco este cargo",
    ],
)
def test_wishes_that_only_a_human_may_settle_go_to_a_human(text: str) -> None:
    """Cancellation, refund, a wish for a person, loss and fraud."""
    decision = decide(text)

    assert decision.specialist == "human"
    assert decision.confidence >= 0.9


@pytest.mark.parametrize(
    ("text", "desk"),
    [
        ("how do I activate my new card?", "technical_support"),
        ("no me funciona el pago sin contacto", "technical_support"),
        ("Why was I charged a fee for my transfer?", "billing_support"),
        ("¿Cuándo vence mi factura?", "billing_support"),
        ("When will my card arrive?", "general_support"),
        ("¿En qué países puedo usar la tarjeta?", "general_support"),
        ("hola", "general_support"),
        ("are you a bot?", "general_support"),
        ("I found my lost card, how do I reactivate it?", "technical_support"),
    ],
)
def test_messages_go_to_the_desk_that_they_are_about(text: str, desk: str) -> None:
    """One clear message per kind, in both languages."""
    assert decide(text).specialist == desk


def test_a_refund_of_an_order_that_is_named_goes_to_billing() -> None:
    """Design D10: billing prepares the request, and the human's answer to it is the escalation."""
    assert decide("quiero un reembolso del pedido AZ-10234").specialist == "billing_support"


def test_the_order_of_a_refund_may_come_in_another_message_than_the_wish() -> None:
    """Wish first or number first, both make a refund of an identified order."""
    wish, number = HumanMessage("I want a refund"), HumanMessage("it is order AZ-10234")

    assert decide("it is order AZ-10234", before=(wish, AIMessage("Which order?"))).specialist == "billing_support"
    assert decide("I want a refund", before=(number, AIMessage("It was shipped."))).specialist == "billing_support"


@pytest.mark.parametrize("text", ["¿y la segunda?", "and the other one?", "why?", "sí"])
def test_a_short_follow_up_stays_with_the_specialist_that_answered(text: str) -> None:
    """Who answered last is the name of the last answer."""
    assert decide(text, before=answered_by("billing_support")).specialist == "billing_support"


def test_a_follow_up_with_a_new_subject_goes_where_the_subject_belongs() -> None:
    """The words of the message win over the conversation when they are clear."""
    assert decide("and how do I change my PIN?", before=answered_by("billing_support")).specialist == "technical_support"


def test_without_its_favourite_it_chooses_the_next_best_less_surely() -> None:
    """The choice and the alternatives come from those who are offered."""
    text = "how do I activate my new card?"
    decision = decide(text, offered=("billing_support", "general_support", "human"))

    assert decision.specialist in ("billing_support", "general_support")
    assert decision.confidence <= NEXT_BEST < decide(text).confidence
    assert set(decision.alternatives) <= {"billing_support", "general_support", "human"} - {decision.specialist}


def test_the_injected_weights_are_the_ones_that_decide() -> None:
    """The evaluation routes with the same code and other weights."""
    stubborn = Router(Weights(("billing_support", "technical_support"), (9.0, 0.0), {}))

    assert stubborn.decide(Turn.read([HumanMessage("how do I activate my card?")]), EVERYBODY).specialist == "billing_support"


def test_a_wish_at_the_end_of_a_long_letter_is_seen() -> None:
    """Of a long text the beginning and the end are read."""
    assert decide("I have been with you for years. " * 500 + "Please cancel my account.").specialist == "human"
