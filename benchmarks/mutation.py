"""Mutation testing of `resilience/`: `python -m benchmarks.mutation` (half an hour or more of two cores).

Every function is changed in one small way at a time, and the tests of `tests/unit/resilience` are run against the change: a mutant
that none of them notices has survived. Prints the share that was noticed, by module, and what the survivors look like. mutmut
makes the mutants; it leaves alone what is outside functions, and properties.

It can be done in pieces: what was found is kept in the folder `mutants/`, and the next call goes on with what has not been checked,
functions that were changed meanwhile included. `--seconds 200` stops after that; `--survivors` checks those again that survived, as
after tests were written for them; `--anew` forgets everything.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench_report import markdown

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "mutants"
"""Where mutmut works, and keeps what it found."""
MUTMUT = [sys.executable, "-m", "mutmut"]
_RESULT = re.compile(r"^\s*(resilience\.(\w+)\.\S+): ([\w ]+)$", re.MULTILINE)
NOTICED = frozenset({"killed", "timeout", "segfault"})
"""A mutant that makes the tests hang or crash is noticed, too."""
UNCHECKED = "not checked"


def mutate(names: Sequence[str] = (), *, seconds: float | None = None) -> None:
    """Make all mutants and run the tests against those that have not been checked, or against those named.

    Args:
        names: Mutants to check, again if need be; none: all that have not been checked.
        seconds: After this long the rest is left for the next time.

    Raises:
        RuntimeError: The tests fail without any mutant.
    """
    with subprocess.Popen([*MUTMUT, "run", *names], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate()
        else:
            if process.returncode:
                raise RuntimeError(f"mutmut ended with {process.returncode}:\n{said[-4000:]}")


def results() -> list[tuple[str, str, str]]:
    """Name, module and fate of every mutant."""
    return _RESULT.findall(_said("results", "--all", "true"))


def changed(mutant: str) -> str:
    """What the mutant changes, as the lines of a diff."""
    lines = _said("show", mutant).splitlines()
    return "\n".join(line for line in lines if line[:1] in "+-" and not line.startswith(("+++", "---")))


def table(found: list[tuple[str, str, str]]) -> str:
    """Mutants by module, how many were noticed, and their share of those that have been checked."""
    fates: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for _, module, fate in found:
        what = "noticed" if fate in NOTICED else "left" if fate == UNCHECKED else "survived"
        fates[module][what] += 1
        fates["all"][what] += 1
    rows = [
        [module, str(fate.total()), str(fate["left"]), str(fate["noticed"]), _share(fate["noticed"], fate.total() - fate["left"])]
        for module, fate in sorted(fates.items(), key=lambda item: (item[0] == "all", item[0]))
    ]
    return markdown(["module", "mutants", "not checked", "noticed", "score"], rows)


def main() -> None:
    """Mutate, test and report."""
    parser = argparse.ArgumentParser(description="Mutation testing of resilience/")
    parser.add_argument("--seconds", type=float, help="leave the rest for the next call after this long")
    parser.add_argument("--survivors", action="store_true", help="check those again that survived")
    parser.add_argument("--anew", action="store_true", help="forget what was found before")
    wishes = parser.parse_args()
    if wishes.anew:
        shutil.rmtree(FOLDER, ignore_errors=True)
    survivors = [name for name, _, fate in results() if fate not in NOTICED | {UNCHECKED}] if wishes.survivors else []
    if survivors or not wishes.survivors:
        mutate(survivors, seconds=wishes.seconds)
    found = results()
    print(table(found))
    for name, _, fate in found:
        if fate not in NOTICED | {UNCHECKED}:
            print(f"\n{name}: {fate}\n{changed(name)}")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _said(*arguments: str) -> str:
    return subprocess.run([*MUTMUT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
