"""Which items fit a query or a filter, without any language's rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.memory import InMemoryStore

from app.storage.redis.store_words import check_filter, fits, scores, words, words_of

VALUES = st.sampled_from([None, True, False, 0, 1, 2, 2.5, -1, "", "a", "b", [], [1], ["a", 1], {}, {"x": 1}, {"x": 2, "y": "a"}])
ITEMS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)
NUMBERS = st.integers(-2, 4) | st.sampled_from([0.5, 2.5])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("¿Cuáles son mis FACTURAS?", ["cuales", "son", "mis", "facturas"]),
        ("Straße 12b, zoe@example.com", ["strasse", "12b", "zoe", "example", "com"]),
        ("snake_case and-dashes", ["snake", "case", "and", "dashes"]),
        ("東京都", ["東京", "京都"]),
        ("猫", ["猫"]),
        ("iPhone充電器", ["iphone", "充電", "電器"]),
        ("Ελλάδα", ["ελλαδα"]),
        ("…!? ", []),
        ("\ud800 x", ["x"]),
    ],
)
def test_words_are_folded_and_need_no_language(text: str, expected: list[str]) -> None:
    """Case and accents tell no words apart; where a script has no spaces, pairs of characters are the words."""
    assert list(words(text)) == expected


def test_texts_and_numbers_of_the_whole_item_count_by_default() -> None:
    """At any depth; names of fields, booleans and null do not."""
    value = {"title": "Red shoes", "parts": [{"size": 42, "is_new": True}, None], "score": 1.5}
    assert words_of(value, None) == words_of(value, ["$"]) == {"red", "shoes", "42", "1", "5"}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [(["title"], {"red"}), (["parts[*].text"], {"left", "right"}), (["parts[0].text", "title"], {"left", "red"}), (["none"], set())],
)
def test_with_paths_only_their_fields_count(paths: list[str], expected: set[str]) -> None:
    """In the syntax of LangGraph's own stores."""
    assert words_of({"title": "red", "parts": [{"text": "left"}, {"text": "right"}]}, paths) == expected


def test_a_rare_word_weighs_more_than_a_common_one() -> None:
    """With all words the score is 1; a word that nothing has counts as the rarest."""
    whole, rare, common = scores(["rare", "common"], [["rare", "common"], ["rare"], ["common"]], 50)
    assert whole == 1.0
    many = [["rare"], *[["common"]] * 20]
    assert scores(["rare", "common"], many, 50)[0] > scores(["rare", "common"], many, 50)[1] > 0
    assert scores(["here", "missing"], [["here"]], 10) == [0.5]
    assert rare == common


@given(
    ITEMS,
    st.dictionaries(
        st.sampled_from("abc"),
        VALUES | st.dictionaries(st.sampled_from(["$eq", "$ne"]), VALUES, min_size=1),
        max_size=2,
    ),
)
def test_equality_is_that_of_langgraphs_store(item: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Whatever the kinds of the two sides."""
    store = InMemoryStore()
    store.put(("n",), "k", item)
    assert check_filter(wanted) is None
    assert fits(item, wanted) == bool(store.search(("n",), filter=wanted))


@given(NUMBERS, st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), NUMBERS, min_size=1))
def test_numbers_are_compared_as_langgraphs_store_does(number: float, condition: dict[str, Any]) -> None:
    """One condition or several on one field."""
    store = InMemoryStore()
    store.put(("n",), "k", {"a": number})
    assert fits({"a": number}, {"a": condition}) == bool(store.search(("n",), filter={"a": condition}))


@pytest.mark.parametrize("value", [None, "5", True, [5], {}])
def test_what_cannot_be_compared_does_not_fit(value: Any) -> None:
    """LangGraph's in-memory store raises there; a search over many items must not fail because of one."""
    assert not fits({"a": value}, {"a": {"$gt": 1}})
    assert fits({"a": "2026-11-27"}, {"a": {"$gte": "2026-01-01", "$lt": "2027-01-01"}})


@pytest.mark.parametrize("wanted", [{"a": {"$near": 1}}, {"a": {"$gt": None}}, {"a": {"$gt": 1, "b": 2}}, {"a": {"b": {"$lt": [1]}}}])
def test_a_filter_that_says_nothing_is_refused(wanted: dict[str, Any]) -> None:
    assert check_filter(wanted)
