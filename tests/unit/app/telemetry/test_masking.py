import time

import pytest

from app.telemetry.masking import MAX_TEXT, mask, mask_text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to ana.perez+shop@mail.example.org, please", "write to [EMAIL], please"),
        ("correo: ANA_1@EXAMPLE.ES.", "correo: [EMAIL]."),
        ("josé@ejemplo.es", "[EMAIL]"),
        ("card 4111 1111 1111 1111 exp 12/27", "card [CARD] exp 12/27"),
        ("4111111111111111", "[CARD]"),
        ("amex 3782-822463-10005", "amex [CARD]"),
        ("order 1042 4111-1111-1111-1111", "order 1042 [CARD]"),
        ("IBAN ES91 2100 0418 4502 0005 1332 gracias", "IBAN [IBAN] gracias"),
        ("mi cuenta es es9121000418450200051332.", "mi cuenta es [IBAN]."),
        ("DE89-3704-0044-0532-0130-00", "[IBAN]"),
        ("llámame al 600 123 456", "llámame al [PHONE]"),
        ("llámame al 600123456", "llámame al [PHONE]"),
        ("+34 91 123 45 67 o 0034600123456", "[PHONE] o [PHONE]"),
        ("call (212) 555-0123 or 212.555.0123", "call [PHONE] or [PHONE]"),
        ("DNI 12345678Z", "DNI [ES_ID]"),
        ("dni 12.345.678-z", "dni [ES_ID]"),
        ("NIE X1234567L y Y-1234567-X", "NIE [ES_ID] y [ES_ID]"),
        ("SSN 219-09-9999", "SSN [SSN]"),
        ("from 192.168.1.20:8080.", "from [IP]:8080."),
        ("see data:image/png;base64,iVBORw0KGgo= here", "see [FILE] here"),
    ],
)
def test_personal_data_is_replaced_by_its_kind(text: str, masked: str) -> None:
    """Each kind is recognised in the ways people write it, and the rest of the sentence stays."""
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "order ORD-2026-00123 from 2026-11-21",
        "order 370795561790 and invoice #00108",
        "tracking 4111 1111 1111 1112",
        "ES91 2100 0418 4502 0005",
        "12345678A is no DNI",
        "I paid 49.90 and 1299.00 EUR on 21/11/2026, 10:30",
        "ids 7f9c24e8-3b12-4fef-91e0-0123456789ab, 55084000-e29b-41d4-a716-446655440000",
        "at 2026-11-21T10:15:30.123456Z, epoch 1795256130",
        "version 1.2.3, ratio 0.1234567",
        "user@localhost, @handle",
        "between 2024-2026",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    """A wrong checksum, a date, an amount or an order number is not personal data; traces need them."""
    assert mask_text(text) == text


def test_any_nesting_is_read_and_plain_values_keep_their_type() -> None:
    """Strings, keys and whole numbers are masked at every depth; other values come back as they were."""
    given = {
        "messages": [{"role": "user", "content": "I am ana@example.org"}],
        "bo@example.org": ("600 123 456", None, True, 0.5, 12),
        "card": 4111111111111111,
    }

    assert mask(given) == {
        "messages": [{"role": "user", "content": "I am [EMAIL]"}],
        "[EMAIL]": ["[PHONE]", None, True, 0.5, 12],
        "card": "[CARD]",
    }


def test_an_unknown_object_becomes_its_masked_text() -> None:
    """Nothing passes unread because of its type."""
    assert mask([ValueError("ana@example.org")]) == ["[EMAIL]"]


def test_a_structure_without_end_is_cut() -> None:
    """A list that holds itself does not hang the caller."""
    loop: list[object] = []
    loop.append(loop)

    assert "[nested too deep]" in str(mask(loop))


def test_a_long_text_is_cut_and_the_cut_leaves_no_half_of_anything() -> None:
    """What the cut may have split is left out, so that no recognisable half stays."""
    text = "x " * ((MAX_TEXT - 12) // 2) + "4111 1111 1111 1111"

    masked = mask_text(text)

    assert "4111" not in masked
    assert masked.endswith(f"… [cut, {len(text)} characters]")


@pytest.mark.parametrize(
    "unit", ["a", "1", "1 ", "1111 ", "12-", "AB12 ", "ES12a a a a ", "1.", "a@", "a@a.", "+1 ", "(12)", "data:", "X1.", "12  ", "1/"]
)
def test_a_hostile_text_does_not_run_away(unit: str) -> None:
    """The longest text that is read costs milliseconds; a pattern that backtracks would need minutes of this thread's CPU."""
    text = (unit * MAX_TEXT)[:MAX_TEXT]

    begin = time.thread_time()
    mask_text(text)

    assert time.thread_time() - begin < 2.0
