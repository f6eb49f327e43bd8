"""The committed OpenAPI document: `make openapi` writes it, and a contract test holds it against the code.

It is what a service answers at `/openapi.json` that has an `ADMIN_TOKEN`: the operators' routes are part of it. Nothing else of the
configuration shows in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from app.main import create_app
from app.settings import Settings

DOCUMENT = Path(__file__).parents[1] / "docs" / "openapi.json"


def document() -> dict[str, Any]:
    """The document as the code has it now."""
    settings = Settings.load({"ADMIN_TOKEN": "only-to-have-the-routes-described"}, env_file=Path("no-file"))
    return create_app(None, settings).openapi()


def text() -> str:
    """The document as it is committed."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the document, or to standard output with `-`."""
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(text())
    else:
        DOCUMENT.write_text(text(), "utf-8")


if __name__ == "__main__":
    main()
