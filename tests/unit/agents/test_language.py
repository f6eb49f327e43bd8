import json
from pathlib import Path

import pytest

from agents.language import clear_language, detect_language

DATA = Path(__file__).parents[3] / "benchmarks" / "data"


def _texts(name: str) -> list[str]:
    return [json.loads(line)["text"] for line in (DATA / name).read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("hola", "es"),
        ("factura?", "es"),
        ("¿y la segunda?", "es"),
        ("no anda", "es"),
        ("Cancelar", "es"),
        ("me robaron", "es"),
        ("hi", "en"),
        ("and the second one?", "en"),
        ("my card", "en"),
        ("I don't know", "en"),
        ("I’m José and my card is lost", "en"),
    ],
)
def test_a_short_message_decides_the_language_against_the_locale(text: str, language: str) -> None:
    """Where the message is clear, the locale has no say."""
    assert detect_language(text, locale="en-GB" if language == "es" else "es-ES") == language


@pytest.mark.parametrize("text", ["ok", "AZ-10234", "", "123", "👍"])
def test_where_the_message_says_nothing_the_locale_decides_and_then_english(text: str) -> None:
    """No word of either language: the locale, else English."""
    assert clear_language(text) is None
    assert (detect_language(text, "es-MX"), detect_language(text, "en-IE"), detect_language(text)) == ("es", "en", "en")


def test_english_messages_are_english_even_for_customers_with_a_spanish_locale() -> None:
    """At least 99 % of the real English messages, under the less favourable locale."""
    found = [detect_language(text, locale="es-ES") for text in _texts("messages.jsonl")]

    assert found.count("en") / len(found) >= 0.99


def test_spanish_messages_are_spanish_even_for_customers_with_an_english_locale() -> None:
    """At least 97 % of the Spanish messages, under the less favourable locale."""
    found = [detect_language(text, locale="en-GB") for name in ("routing_es.jsonl", "routing_es_dev.jsonl") for text in _texts(name)]

    assert len(found) >= 60
    assert found.count("es") / len(found) >= 0.97
