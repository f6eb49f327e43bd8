"""What a search asks of a thread."""

from __future__ import annotations

import pytest

from app.errors import InvalidInput
from app.storage.redis.thread_index import words_of
from app.threads.matching import at_path, contains, parsed_path
from app.threads.metadata import MAX_PAIRS, check_metadata

THREAD = {
    "metadata": {"a": {"b": 1}, "list": [1, {"c": "x"}]},
    "values": {"messages": [{"content": "one"}, {"content": "two"}]},
    "error": None,
}


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"a": 1}, True),
        ({"a": 1.0}, True),
        ({"a": True}, False),
        ({"a": "1"}, False),
        ({"b": {"c": None}}, True),
        ({"b": {}}, True),
        ({"b": {"d": None}}, False),
        ({"list": [{"y": 2}]}, True),
        ({"list": [3, 1]}, True),
        ({"list": [4]}, False),
        ({"list": 1}, False),
        ({"missing": None}, False),
    ],
)
def test_an_object_holds_another_key_by_key_and_a_list_element_by_element(wanted: dict, fits: bool) -> None:
    found = {"a": 1, "b": {"c": None, "x": 0}, "list": [1, 3, {"y": 2, "z": 3}]}
    assert contains(found, wanted) is fits


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("metadata.a.b", 1),
        ("metadata.list[1].c", "x"),
        ("values.messages[-1].content", "two"),
        ("values.messages[2].content", None),
        ("metadata.a[0]", None),
        ("metadata.nothing.b", None),
        ("error", None),
    ],
)
def test_a_path_leads_to_a_value_or_nowhere(path: str, found: object) -> None:
    assert at_path(THREAD, parsed_path(path)) == found


@pytest.mark.parametrize(
    "path", ["", "a.b", "metadata.", "metadata..a", "metadata[x]", "metadata[1", "metadata.a b]", "kwargs.x", "valuesx"]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        parsed_path(path)


def test_pairs_that_are_equal_in_json_are_one_word_and_others_are_not() -> None:
    """Numbers by their value, but no truth value is a number; objects and lists have no word."""
    (one,) = words_of(None, {"a": 1})
    assert words_of(None, {"a": 1.0}) == [one]
    others = words_of(None, {"a": "1"}) + words_of(None, {"a": True}) + words_of(None, {"a": None}) + words_of(None, {"b": 1})
    assert len({one, *others}) == 5
    assert len(words_of(None, {"a": 10**30, "b": "\ud800"})) == 2, "a search may ask for what no thread can have"
    assert words_of("idle", {"x": {"y": 1}, "z": [1]}) == ["status.idle"]


def test_metadata_have_a_bounded_number_of_keys_and_numbers_that_can_be_stored() -> None:
    check_metadata({str(i): i for i in range(MAX_PAIRS)})
    with pytest.raises(InvalidInput, match="64 keys"):
        check_metadata({str(i): i for i in range(MAX_PAIRS + 1)})
    with pytest.raises(InvalidInput):
        check_metadata({"a": [10**30]})
