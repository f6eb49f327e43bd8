"""Text as the rules see it: lower case, without accents, one space between words."""

from __future__ import annotations

import re
import unicodedata

_END = 2_000
"""Characters read at either end of a long text: a pasted document would hold up everybody else's answers."""
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


def vocabulary(text: str) -> frozenset[str]:
    """The words of `text`, which is written down for people to read."""
    return frozenset(text.split())


_EMPTY = vocabulary(
    """a al and are as at be but by can con de del do does el en es esta for from ha hay he how i if in is it la las lo los me mi mis
    my no not o of on or para pero por que se si su the this to un una was what when where which why with y yo you your como cual
    cuando donde porque need want quiero necesito puedo could would please"""
)


def fold(text: str) -> str:
    """`text` in lower case without diacritics, `n't` without its apostrophe, white space collapsed; of a long text both ends."""
    if len(text) > 2 * _END:
        text = f"{text[:_END]} {text[-_END:]}"
    plain = unicodedata.normalize("NFKD", text.lower().replace("’", "'").replace("n't", "nt"))
    return " ".join("".join(c for c in plain if not unicodedata.combining(c)).split())


def words(text: str) -> list[str]:
    """The words of `text`, folded, without punctuation."""
    return _WORD.findall(fold(text))


def content_stems(text: str) -> set[str]:
    """The words that carry meaning, cut to six letters so that most inflections of one word meet."""
    return {word[:6] for word in words(text) if word not in _EMPTY and len(word) > 1}
