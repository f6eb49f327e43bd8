"""Takes personal data out of what is exported: what is recognised is replaced by its kind, `[EMAIL]`.

Recognised are e-mail addresses, payment cards (Luhn), IBANs (mod 97), telephone numbers, Spanish DNI and NIE (check letter),
US social security numbers and IPv4 addresses. Names and postal addresses are not. Where a checksum exists it must be right, so that
order numbers stay readable; telephone numbers have none, and a number that only looks like one is masked too.

Every expression is bounded or possessive in what it repeats, so that time grows no faster than the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

# Longer texts are cut before they are read: a trace shows what happened, it does not archive it.
MAX_TEXT = 16_000
# What the cut may have split in two ends here; it is shorter than this.
_CUT_MARGIN = 64
_MAX_DEPTH = 20

_MAY_HOLD_ANY = re.compile(r"[@\d]")
# Every kind but e-mail and IPv4 holds seven digits close together; most texts do not.
_SEVEN_DIGITS = re.compile(r"\d(?:[ .()/-]{0,2}\d){6}")
_DATA_URI = re.compile(r"data:[\w./+-]{0,100}(?:;[\w=-]{1,50}){0,4};base64,[A-Za-z0-9+/=_-]*")
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]++@(?:[\w-]{1,63}\.){1,6}[^\W\d_]{2,24}")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_CARD = re.compile(r"(?<!\d)\d{4}([ -]?)\d{3,6}\1\d{3,6}(?:\1\d{1,6})?(?:\1\d{1,3})?(?!\d)")
_SSN = re.compile(r"(?<![\w-])(?!000|666)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?!-?\w)")
_ES_ID = re.compile(r"(?<![\w-])([XYZxyz]?)[ -]?(\d{1,2}\.?\d{3}\.?\d{3})[ -]?([A-Za-z])(?!\w)")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4 = re.compile(rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\w|\.\d)")
_PHONE = re.compile(
    r"""(?:
      (?<![\w+]) \+\d (?:[ .()/-]{0,2}\d){6,14}       # +34 600 12 34 56
    | (?<![\w#.-]) (?:
        00[1-9]\d{9,12}                                # 0034600123456
      | \(\d{2,5}\) [ -]? \d{2,4} (?:[ -]?\d{2,4}){1,3}  # (64) 3591-3246
      | \d{2,4} (?:[ -]\d{2,6}){1,4}                   # 91 123 45 67
      | \d{3} (?:\.\d{2,4}){2,3}                       # 930.167.3943
      | [6-9]\d{8} | [2-9]\d{9}                        # 600123456
      )
    ) (?! \w | [.,-]\d )""",
    re.VERBOSE,
)
_DATE = re.compile(r"\d{4}[-. ]\d{1,2}[-. ]\d{1,2}|\d{1,2}[-. ]\d{1,2}[-. ]\d{4}|(?:19|20)\d\d[- ](?:19|20)\d\d")
# Source: the IBAN registry of ISO 13616.
_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 "
        "FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 "
        "LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 "
        "SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30",
    )
}
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


def mask(value: Any) -> Any:
    """The same plain data without the personal data that is recognised; keys of dictionaries are read too.

    What is not plain data becomes its masked text. Texts over `MAX_TEXT` characters are cut, nesting over 20 levels is left out.
    """
    return _mask(value, 0)


def mask_text(text: str) -> str:
    """`text` without the personal data that is recognised."""
    if len(text) > MAX_TEXT:
        return f"{_replace(text[:MAX_TEXT])[:-_CUT_MARGIN]}… [cut, {len(text)} characters]"
    return _replace(text)


def _mask(value: Any, depth: int) -> Any:
    match value:
        case None | bool() | float():
            return value
        case _ if depth > _MAX_DEPTH:
            return "[nested too deep]"
        case str():
            return mask_text(value)
        case int():
            masked = mask_text(str(value))
            return value if masked == str(value) else masked
        case Mapping():
            return {mask_text(str(key)): _mask(item, depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_mask(item, depth + 1) for item in value]
        case _:
            return mask_text(str(value))


def _replace(text: str) -> str:
    if not _MAY_HOLD_ANY.search(text):
        return text
    text = _DATA_URI.sub("[FILE]", text)
    if "@" in text:
        text = _EMAIL.sub("[EMAIL]", text)
    if text.count(".") >= 3:
        text = _IPV4.sub("[IP]", text)
    if not _SEVEN_DIGITS.search(text):
        return text
    text = _scan(text, _IBAN, _iban_length, "[IBAN]")
    text = _scan(text, _CARD, _card_length, "[CARD]")
    text = _SSN.sub("[SSN]", text)
    text = _ES_ID.sub(_es_id, text)
    return _PHONE.sub(_phone, text)


def _scan(text: str, pattern: re.Pattern[str], measure: Callable[[str], int], label: str) -> str:
    """Replace the part of each candidate that `measure` finds valid; a candidate may begin inside a rejected one."""
    parts: list[str] = []
    start = kept = 0
    while found := pattern.search(text, start):
        length = measure(found[0])
        if not length:
            start = found.start() + 1
            continue
        parts += [text[kept : found.start()], label]
        start = kept = found.start() + length
    return "".join([*parts, text[kept:]]) if parts else text


def _iban_length(candidate: str) -> int:
    """Length of the IBAN that `candidate` begins with, 0 if it is none."""
    wanted = _IBAN_LENGTHS.get(candidate[:2].upper(), 0)
    places = [place for place, c in enumerate(candidate) if c.isalnum()][:wanted]
    if not wanted or len(places) < wanted:
        return 0
    end = places[-1] + 1
    if candidate[end : end + 1].isalnum():
        return 0
    compact = "".join(candidate[place] for place in places)
    number = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])
    return end if int(number) % 97 == 1 else 0


def _card_length(candidate: str) -> int:
    """Length of `candidate` if it is a card number, else 0."""
    digits = [int(c) for c in candidate if c.isdigit()]
    match digits:
        case [2 | 3 | 4 | 5 | 6, *rest] if 12 <= len(rest) <= 18:
            pass
        case [5 | 6, *rest] if len(rest) == 11:  # Maestro
            pass
        case [1, 8, 0, 0, *rest] if len(rest) == 11:  # JCB
            pass
        case _:
            return 0
    doubled = (d * 2 - 9 if d > 4 else d * 2 for d in digits[-2::-2])
    return len(candidate) if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 else 0


def _es_id(found: re.Match[str]) -> str:
    prefix, number, letter = found[1].upper(), found[2].replace(".", ""), found[3].upper()
    if len(number) != (7 if prefix else 8):
        return found[0]
    checked = int(str("XYZ".index(prefix)) + number if prefix else number)
    return "[ES_ID]" if _DNI_LETTERS[checked % 23] == letter else found[0]


def _phone(found: re.Match[str]) -> str:
    digits = sum(map(str.isdigit, found[0]))
    return found[0] if not 7 <= digits <= 15 or _DATE.fullmatch(found[0]) else "[PHONE]"
