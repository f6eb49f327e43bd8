"""Makes the clients from the committed OpenAPI document, in dist/sdk: `make sdk`, or `python -m sdk.build python|typescript`.

What a generator lacks is ours and lies beside its configuration: how streams are followed. See ADR-0038.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from sdk.document import DOCUMENT

HERE = Path(__file__).parent
DIST = HERE.parent / "dist"
PACKAGE = "capataz_client"
UNIONS = ("StreamEvent", "ThreadStreamEvent", "ProtocolEvent")
"""Schemas of what streams yield, each one of several events."""
OLDEST_NODE = (20, 19)
"""What the TypeScript generator runs on."""


def python(out: Path = DIST / "sdk" / "python") -> Path:
    """Make the Python client in the folder `out`; `out` is what has to be on the path to import it."""
    with tempfile.TemporaryDirectory() as folder:
        templates = Path(folder)
        shutil.copytree(HERE / "python" / "templates", templates, dirs_exist_ok=True)
        own = "endpoint_module.py.jinja"  # ours includes the generator's for everything that does not stream
        (templates / "generated").mkdir()
        (templates / "generated" / own).write_text(files("openapi_python_client").joinpath("templates", own).read_text("utf-8"), "utf-8")
        (templates / "openapi.json").write_text(_without_doubles(), "utf-8")
        path = str(templates / "openapi.json")
        command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", path, "--meta", "uv", "--overwrite"]
        config = ["--config", str(HERE / "python" / "config.yml"), "--custom-template-path", str(templates)]
        _run([*command, *config, "--output-path", str(out), "--fail-on-warning"], HERE)
    package = out / PACKAGE
    shutil.copy(HERE / "python" / "streams.py", package)
    (package / "events.py").write_text(_events(), "utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    _run([*ruff, "check", "--quiet", "--isolated", "--fix-only", "--extend-select=I,F401", "."], out)
    _run([*ruff, "format", "--quiet", "--isolated", "."], out)
    return out


def typescript(out: Path = DIST / "sdk" / "typescript") -> Path:
    """Make the TypeScript client in the folder `out` and compile it; needs node and npm."""
    tools = node_tools()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    environment = {**os.environ, "CAPATAZ_DOCUMENT": str(DOCUMENT), "CAPATAZ_SDK": str(out / "src")}
    _run(["node", "node_modules/@hey-api/openapi-ts/bin/run.js", "--file", "openapi-ts.config.ts"], tools, environment)
    shutil.copy(HERE / "typescript" / "serverSentEvents.ts", out / "src" / "core" / "serverSentEvents.gen.ts")
    with (out / "src" / "index.ts").open("a", encoding="utf-8") as index:
        index.write("export { Refused, StreamLost } from './core/serverSentEvents.gen.js';\n")
        index.write("export { createClient, createConfig } from './client/index.js';\n")
    shutil.copy(HERE / "typescript" / "client.package.json", out / "package.json")
    shutil.copy(HERE / "typescript" / "tsconfig.json", out)
    type_check(out)
    return out


def node_tools() -> Path:
    """The folder with the generator and the compiler, installed once for each state of the lock."""
    found = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(map(int, found.removeprefix("v").split(".")[:2])) < OLDEST_NODE:
        raise SystemExit(f"node {'.'.join(map(str, OLDEST_NODE))} or newer is needed; this is {found}")
    source = HERE / "typescript"
    parts = ["package.json", "package-lock.json", ".npmrc", "openapi-ts.config.ts"]
    key = hashlib.sha256(b"".join((source / name).read_bytes() for name in parts)).hexdigest()[:12]
    folder = DIST / "node" / key
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        if not (folder / ".installed").exists():  # and nothing is touched that another process may be using
            for name in parts:
                shutil.copy(source / name, folder)
            _run(["npm", "ci", "--silent", "--ignore-scripts"], folder)
            (folder / ".installed").touch()
    return folder


def type_check(project: Path) -> None:
    """Compile the TypeScript project in the folder `project`."""
    _run(["node", str(node_tools() / "node_modules" / "typescript" / "bin" / "tsc"), "--project", "."], project)


def _without_doubles() -> str:
    """The document without query parameters that stand in for a header field of the same name, for who cannot send any: both would be
    the same argument of a function."""
    document = json.loads(DOCUMENT.read_text("utf-8"))
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        fields = {it["name"].lower().replace("-", "_") for it in operation["parameters"] if it.get("in") == "header"}
        operation["parameters"] = [it for it in operation["parameters"] if it.get("in") != "query" or it["name"] not in fields]
    return json.dumps(document)


def _events() -> str:
    """The module that knows which model an event is."""
    schemas = json.loads(DOCUMENT.read_text("utf-8"))["components"]["schemas"]
    lines, models = [], set()
    for union in UNIONS:
        mapping = schemas[union]["discriminator"]["mapping"].items()
        classes = {name: reference.rpartition("/")[2] for name, reference in mapping}
        models |= {*classes.values()}
        named = ", ".join(f"{name!r}: {kind}" for name, kind in classes.items())
        lines += [f"{union} = {' | '.join(classes.values())}", f"{_constant(union)}: dict[str, type[{union}]] = {{{named}}}"]
    return "\n".join(['"""The events of streams, by name."""', f"from .models import {', '.join(sorted(models))}", *lines]) + "\n"


def _constant(union: str) -> str:
    """`StreamEvent` → `STREAM_EVENTS`."""
    return re.sub("(?<!^)(?=[A-Z])", "_", union).upper() + "S"


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Make what is named, or both."""
    makers = {"python": python, "typescript": typescript}
    for name in sys.argv[1:] or makers:
        print(f"{name}: {makers[name]()}")  # noqa: T201  for the person at the terminal


if __name__ == "__main__":
    main()
