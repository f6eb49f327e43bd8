"""Tests that need a Debian package: skipped with a list where it is absent, failed where CI says that nothing may be."""

import os
import random
import shutil

import pytest

_MISSING: set[str] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """One order of sets for all test processes, or a test with a set among its parameters has another name in each."""
    os.environ.setdefault("PYTHONHASHSEED", str(random.SystemRandom().randrange(2**32)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        package: str = marker.args[0]
        program: str = marker.kwargs.get("program", package)
        if shutil.which(program) is not None:
            continue
        _MISSING.add(package)
        if os.environ.get("CI") == "true":
            pytest.fail(f"the Debian package {package} is absent; CI installs it", pytrace=False)
        pytest.skip(f"needs the Debian package {package}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _MISSING:
        terminalreporter.write_line(f"skipped for want of Debian packages: {', '.join(sorted(_MISSING))}", yellow=True)
