"""JavaScript clients: their packages installed once per lock and checkout, their programs run in node."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests/clients-js"
INSTALL_LIMIT, RUN_LIMIT = 300.0, 120.0
"""Seconds."""


def checks(program: str) -> list[str]:
    """The names of the checks that a program makes."""
    return re.findall(r'^check\("(.+?)",', (PROGRAMS / program).read_text("utf-8"), re.MULTILINE)


def run_checks(program: str, **variables: str) -> dict[str, str]:
    """What each check of a program says: nothing if it holds, else what is wrong. One process makes them all."""
    done = run_node({path.name: path.read_text("utf-8") for path in PROGRAMS.glob("*.mjs")}, program, **variables)
    results: list[Any] = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("\t")]
    found = {result["name"]: result["error"] for result in results}
    missing = {*checks(program)} - found.keys()
    assert not missing, f"{program} ended with {done.returncode} before {sorted(missing)}:\n{done.stdout}\n{done.stderr}"
    return found


def run_node(files: dict[str, str], program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `program`, one of `files`, beside the installed packages."""
    with tempfile.TemporaryDirectory(dir=_packages()) as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text, "utf-8")
        environment = {"PATH": os.environ["PATH"], "HOME": folder, **variables}
        return subprocess.run(
            ["node", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_LIMIT, check=False
        )


@cache
def _packages() -> Path:
    """A folder with the packages of the lock in `node_modules`."""
    lock = (PROGRAMS / "package-lock.json").read_bytes()
    folder = ROOT / ".data/clients-js" / hashlib.sha256(lock).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
                for name in ("package.json", "package-lock.json", ".npmrc"):
                    shutil.copy(PROGRAMS / name, fresh)
                command = ["npm", "ci", "--ignore-scripts", "--no-progress"]
                done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=INSTALL_LIMIT, check=False)
                assert done.returncode == 0, f"npm ci failed:\n{done.stdout}\n{done.stderr}"
                Path(fresh).rename(folder)
                Path(fresh).mkdir()
    return folder
