"""How often Python looks for garbage that refers to itself."""

from __future__ import annotations

import gc

from app.telemetry.logging import get_logger

THRESHOLD = 5_000
"""How many more objects may come than go before the youngest are looked through; Python's own default is 700."""


def collect_less() -> None:
    """Call once, when all is made that lives as long as the process; see ADR-0042.

    What is there now is never looked through again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD, *gc.get_threshold()[1:])
    get_logger().info("objects_frozen", count=gc.get_freeze_count(), threshold=gc.get_threshold()[0])
