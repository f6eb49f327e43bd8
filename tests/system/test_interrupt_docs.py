"""The examples of docs/interrupts.md, run as they stand; only the port is the test's own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import Service

PAGE = (Path(__file__).parents[2] / "docs/interrupts.md").read_text("utf-8")
CURL, SDK = (re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1] for language in ("bash", "python"))


def run(command, code, service):
    done = subprocess.run(
        [*command, code.replace("http://localhost:8000", service.url)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("curl")
def test_the_curl_example_gets_a_refund_approved(offline_service: Service) -> None:
    """Created, asked, looked at, approved: four answers, the last with the request's id."""
    decoder, answers, rest = json.JSONDecoder(), [], run(["bash", "-c"], CURL, offline_service)
    while rest.strip():
        answer, end = decoder.raw_decode(rest.strip())
        answers.append(answer)
        rest = rest.strip()[end:]

    _, asked, state, done = answers
    assert asked["__interrupt__"][0]["value"]["tool"] == "open_refund_request"
    assert state["next"] == ["approve"]
    assert state["tasks"][0]["interrupts"][0]["id"] == asked["__interrupt__"][0]["id"]
    assert "RR-" in done["answer"]
    assert done["escalation"] is None


def test_the_sdk_example_refuses_one(offline_service: Service) -> None:
    """The proposal is printed, then what the customer hears."""
    said = run([sys.executable, "-c"], SDK, offline_service)

    assert "AZ-10234" in said
    assert "no ha aprobado" in said
    assert "ya se envió otro" in said
