"""What the store takes: how long names and values may be, and what is said to those who want more."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, Op, PutOp, SearchOp, validate_op_namespace

from app.storage.redis.store_words import check_filter

MAX_LABELS = 16
"""Most labels of a namespace."""
MAX_NAME_BYTES = 1024
"""Longest label, and longest key."""
MAX_VALUE_BYTES = 256 * 1024
"""Largest item, as JSON."""
MAX_PATHS = 64
"""Most paths of an item's `index`."""
MAX_TTL = 10 * 366 * 24 * 60.0
"""Longest time to live, minutes."""
MAX_QUERY_WORDS = 64
"""Most distinct words of a query that count."""
_RESERVED = "langgraph"


class StoreRefused(ValueError):
    """The store does not take this, or does not answer this; `code` is a stable word for why."""

    def __init__(self, detail: str, code: str = "invalid_item") -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class NamespaceRefused(StoreRefused, InvalidNamespaceError):
    """No namespace can be called that."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, "invalid_namespace")


def check_namespace(namespace: Sequence[str], *, holds_items: bool = False) -> None:
    """Return if this names a namespace, or, without `holds_items`, part of one.

    Raises:
        NamespaceRefused: It does not; the text says why.
    """
    try:
        validate_op_namespace(SearchOp(tuple(namespace)))
    except InvalidNamespaceError as exc:
        raise NamespaceRefused(str(exc)) from None
    if len(namespace) > MAX_LABELS:
        raise NamespaceRefused(f"a namespace has at most {MAX_LABELS} labels")
    if holds_items and (not namespace or namespace[0] == _RESERVED):
        raise NamespaceRefused(f"an item's namespace has at least one label, and the first one is not {_RESERVED!r}")
    for label in namespace:
        if _size(label) > MAX_NAME_BYTES:
            raise NamespaceRefused(f"a label has at most {MAX_NAME_BYTES} bytes")


def check_op(op: Op) -> None:
    """Return if the operation can be executed.

    Raises:
        StoreRefused: It cannot; the text says why.
    """
    match op:
        case PutOp():
            check_namespace(op.namespace, holds_items=op.value is not None)
            _check_key(op.key)
            if op.ttl is not None and not 0 < op.ttl <= MAX_TTL:
                raise StoreRefused(f"ttl is more than 0 and at most {MAX_TTL:.0f} minutes")
            if op.index and len(op.index) > MAX_PATHS:
                raise StoreRefused(f"index has at most {MAX_PATHS} paths")
        case GetOp():
            check_namespace(op.namespace)
            _check_key(op.key)
        case SearchOp():
            check_namespace(op.namespace_prefix)
            fault = check_filter(op.filter or {})
            if fault is None and min(op.limit, op.offset) < 0:
                fault = "limit and offset are not negative"
            if fault:
                raise StoreRefused(fault, "invalid_filter")
        case ListNamespacesOp():
            for condition in op.match_conditions or ():
                check_namespace(condition.path)
            if min(op.limit, op.offset, op.max_depth or 0) < 0:
                raise StoreRefused("limit, offset and max_depth are not negative", "invalid_filter")
        case _:
            raise StoreRefused(f"there is no operation {type(op).__name__}")


def _check_key(key: str) -> None:
    if not key or _size(key) > MAX_NAME_BYTES:
        raise StoreRefused(f"a key has 1 to {MAX_NAME_BYTES} bytes")


def _size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise StoreRefused("labels and keys are valid Unicode, without lone surrogates") from None
