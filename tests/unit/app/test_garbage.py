"""What is made at start is not looked through for garbage."""

import subprocess
import sys

PROGRAM = """
import gc
from app.bootstrap.garbage import collect_less

class Node: ...
old = Node(); old.itself = old
collect_less()
new = Node(); new.itself = new
found = gc.get_objects()
print(any(thing is old for thing in found), any(thing is new for thing in found), gc.get_threshold()[0], gc.isenabled())
"""


def test_what_was_there_is_frozen_and_what_comes_is_not() -> None:
    """In a process of its own, since nothing undoes it."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1].split() == ["False", "True", "5000", "True"]
