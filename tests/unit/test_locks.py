"""The locks pin everything and name no address."""

import json
import re
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
WITH_EXTRAS = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[([^\]]*)\])?==", re.MULTILINE)


def pins(lock: str) -> set[tuple[str, str]]:
    return set(PINNED.findall((ROOT / lock).read_text("utf-8")))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_address(lock: str) -> None:
    """Nobody is tied to the index that the lock was made with."""
    text = (ROOT / lock).read_text("utf-8")
    assert not re.search(r"https?://|file://|--index|--find-links", text)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash(lock: str) -> None:
    """What is installed is what was locked."""
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text("utf-8").strip())
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_runtime_lock_is_part_of_the_dev_lock() -> None:
    """The tests run with what the service runs with."""
    assert pins("requirements.lock") <= pins("requirements-dev.lock")


def test_every_dependency_is_locked() -> None:
    """A dependency that was added to pyproject.toml is in the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    names = {re.split(r"[<>=;\[ ]", wanted)[0] for wanted in project["project"]["dependencies"]}
    assert names <= {name for name, _ in pins("requirements.lock")}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_pin_names_the_extras_that_are_asked_of_it(lock: str) -> None:
    """pip takes `name[extra]` for unpinned where the lock says `name` alone, and refuses it as soon as a newer release is out."""
    text = (ROOT / lock).read_text("utf-8")
    extras = {name: set(filter(None, (listed or "").split(","))) for name, listed in WITH_EXTRAS.findall(text)}
    missing = set()
    for name in extras:
        with suppress(PackageNotFoundError):
            for wanted in map(Requirement, requires(name) or ()):
                is_meant = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
                key = canonicalize_name(wanted.name)
                if is_meant and key in extras and not wanted.extras <= extras[key]:
                    missing.add(str(wanted))
    assert missing == set()


def test_the_lock_of_the_typescript_tools_names_no_address_and_has_every_hash() -> None:
    """The same for npm: what is installed is what was locked, from wherever."""
    text = (ROOT / "sdk/typescript/package-lock.json").read_text("utf-8")
    packages = {name: package for name, package in json.loads(text)["packages"].items() if name}

    assert "http" not in text
    assert [name for name, package in packages.items() if not package.get("integrity", "").startswith("sha512-")] == []
    assert "omit-lockfile-registry-resolved=true" in (ROOT / "sdk/typescript/.npmrc").read_text("utf-8")
