"""Mutation testing of `resilience/`: `python -m benchmarks.mutation` (some minutes).

Every function is changed in one small way at a time, and the tests of `tests/unit/resilience` are run against the change: a mutant
that none of them notices has survived. Prints the share that was noticed, by module, and what the survivors look like. mutmut
makes the mutants; it leaves alone what is outside functions, and properties.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.bench_report import markdown

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "mutants"
"""Where mutmut works; removed before, so that no result of earlier tests is kept."""
MUTMUT = [sys.executable, "-m", "mutmut"]
_RESULT = re.compile(r"^\s*(resilience\.(\w+)\.\S+): ([\w ]+)$", re.MULTILINE)
NOTICED = frozenset({"killed", "timeout", "segfault"})
"""A mutant that makes the tests hang or crash is noticed, too."""


def mutate() -> None:
    """Make all mutants and run the tests against each.

    Raises:
        RuntimeError: The tests fail without any mutant.
    """
    shutil.rmtree(FOLDER, ignore_errors=True)
    done = subprocess.run([*MUTMUT, "run"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mutmut ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def results() -> list[tuple[str, str, str]]:
    """Name, module and fate of every mutant."""
    return _RESULT.findall(_said("results", "--all", "true"))


def changed(mutant: str) -> str:
    """What the mutant changes, as the lines of a diff."""
    lines = _said("show", mutant).splitlines()
    return "\n".join(line for line in lines if line[:1] in "+-" and not line.startswith(("+++", "---")))


def table(found: list[tuple[str, str, str]]) -> str:
    """Mutants by module, and how many of them were noticed."""
    fates: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for _, module, fate in found:
        fates[module][fate in NOTICED] += 1
        fates["all"][fate in NOTICED] += 1
    rows = [
        [module, str(fate.total()), str(fate[True]), f"{fate[True] / fate.total():.1%}"]
        for module, fate in sorted(fates.items(), key=lambda item: (item[0] == "all", item[0]))
    ]
    return markdown(["module", "mutants", "noticed", "score"], rows)


def main() -> None:
    """Mutate, test and report."""
    mutate()
    found = results()
    print(table(found))
    for name, _, fate in found:
        if fate not in NOTICED:
            print(f"\n{name}: {fate}\n{changed(name)}")


def _said(*arguments: str) -> str:
    return subprocess.run([*MUTMUT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
