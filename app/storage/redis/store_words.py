"""Which items of the store fit: by the words of a query, and by a filter. Pure, and without any language's rules (ADR-0030)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from langgraph.store.base import get_text_at_path

_WORD = re.compile(r"[^\W_]+")
# Scripts that put no space between words: every pair of characters is a word.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda value, operand: value > operand,
    "$gte": lambda value, operand: value >= operand,
    "$lt": lambda value, operand: value < operand,
    "$lte": lambda value, operand: value <= operand,
}


def words(text: str) -> Iterator[str]:
    """The words of a text, folded: neither case nor accents tell two words apart."""
    bare = "".join(char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))
    for match in _WORD.finditer(unicodedata.normalize("NFC", bare)):
        yield from _split(match[0])


def words_of(value: Mapping[str, Any], index: Sequence[str] | None) -> set[str]:
    """The words by which an item is found.

    Args:
        value: The item.
        index: Paths of the fields that count, as `get_text_at_path` reads them; None: all of them. Names of fields never count.
    """
    texts: Iterable[str] = _leaves(value) if index is None else (text for path in index for text in _texts(value, path))
    return {word for text in texts for word in words(text)}


def scores(wanted: Sequence[str], found: Sequence[Sequence[str]], total: int) -> list[float]:
    """How well items fit a query, 0 to 1: the share of its words that they have, where a rare word weighs more.

    Args:
        wanted: The distinct words of the query, at least one.
        found: For each item those of them that it has.
        total: How many items were looked at.
    """
    having = Counter(word for item in found for word in item)
    # A word that no item has weighs as much as one that a single item has.
    weights = {word: math.log1p(total / max(1, having[word])) for word in wanted}
    whole = sum(weights.values())
    return [sum(weights[word] for word in item) / whole for item in found]


def check_filter(wanted: Mapping[str, Any]) -> str | None:
    """What is wrong with a filter; None: nothing."""
    for value in wanted.values():
        if isinstance(value, dict):
            fault = _check_operators(value) if any(name.startswith("$") for name in value) else check_filter(value)
            if fault:
                return fault
    return None


def fits(value: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the item has what a checked filter asks for; a comparison with something of another kind is not fulfilled."""
    return all(_fits(value.get(key), condition) for key, condition in wanted.items())


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        if any(name.startswith("$") for name in wanted):
            return all(_holds(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, dict) and fits(value, wanted)
    if isinstance(wanted, list | tuple):
        return isinstance(value, list) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    return bool(value == wanted)


def _holds(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$eq":
        return bool(value == operand)
    if operator == "$ne":
        return bool(value != operand)
    is_like = (_is_number(value) and _is_number(operand)) or (isinstance(value, str) and isinstance(operand, str))
    return is_like and _COMPARISONS[operator](value, operand)


def _check_operators(condition: Mapping[str, Any]) -> str | None:
    for name, operand in condition.items():
        if name in _COMPARISONS:
            if not (_is_number(operand) or isinstance(operand, str)):
                return f"{name} compares with a number or a text"
        elif name not in ("$eq", "$ne"):
            return f"there is no operator {name[:40]!r}; there are: $eq, $ne, $gt, $gte, $lt, $lte"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _texts(value: Mapping[str, Any], path: str) -> Iterable[str]:
    return _leaves(value) if path in ("", "$") else get_text_at_path(value, path)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif _is_number(value):
        yield str(value)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)


def _split(word: str) -> Iterator[str]:
    end = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > end:
            yield word[end : run.start()]
        text, end = run[0], run.end()
        yield from (text[i : i + 2] for i in range(max(1, len(text) - 1)))
    if end < len(word):
        yield word[end:]
