"""The snippets of docs/clients, run as they stand; only the port is the test's own. The pieces of a page are one program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.node import PROGRAMS, run_node
from tests.support.service import Service

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs/clients").glob("*.md"))
THREADS = ROOT / "docs/threads.md"
LOCAL = "http://localhost:8000"


def pieces(page: str, language: str, service: Service) -> list[str]:
    """All pieces of one language of a page."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / f"docs/clients/{page}").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert any(LOCAL in piece for piece in found)
    return [piece.replace(LOCAL, service.url) for piece in found]


def program(page: str, language: str, service: Service) -> str:
    """They are one program."""
    return "\n".join(pieces(page, language, service))


def output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def python(page: str, service: Service) -> str:
    command = [sys.executable, "-W", "error", "-c", program(page, "python", service)]
    return output(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False))


def test_the_python_sdk_page(offline_service: Service) -> None:
    """Every section does what it says."""
    said = python("langgraph-sdk-python.md", offline_service)

    assert "What a transfer costs" in said
    assert "the same events again: True" in said
    assert "sources: ['transfer-fees'] next: []" in said
    assert "forked: True" in said
    assert "asked: open_refund_request" in said
    assert "RR-" in said
    assert "cancelled: interrupted" in said
    assert "409 thread_exists" in said
    assert "spoken: According to “What a transfer costs”" in said
    assert "output: ['transfer-fees']" in said
    assert "node: supervise" in said


def test_the_remote_graph_page(offline_service: Service) -> None:
    """Every section does what it says."""
    said = python("remotegraph.md", offline_service)

    assert "sources: ['transfer-fees']" in said
    assert "node: supervise" in said
    assert "forked: True" in said
    assert "asked: open_refund_request" in said
    assert "RR-" in said
    assert "messages: ['human'" in said
    assert "spoken: According to “What a transfer costs”" in said
    assert "output: ['transfer-fees']" in said
    assert "422 " in said


def test_the_openai_page(offline_service: Service) -> None:
    """Every section does what it says."""
    said = python("openai.md", offline_service)

    assert "models: ['supervisor'" in said
    assert said.count("What a transfer costs") == 2
    assert len(set(re.findall(r"tokens: (\d+)", said))) == 1
    assert "thread: True" in said
    assert "named: True" in said
    assert "asked: ['Why was I charged a fee for my transfer?', 'And how do I change my PIN?']" in said
    assert "run: /threads/" in said
    assert "404 model_not_found" in said


@pytest.mark.needs("npm")
@pytest.mark.needs("nodejs", program="node")
def test_the_js_sdk_page(offline_service: Service) -> None:
    """Every section does what it says."""
    said = output(run_node({"page.mjs": program("langgraph-sdk-js.md", "js", offline_service)}, "page.mjs"))

    assert "What a transfer costs" in said
    assert "the same events again: true" in said
    assert "sources: [ 'transfer-fees' ]" in said
    assert "forked: true" in said
    assert "asked: open_refund_request" in said
    assert "RR-" in said
    assert "cancelled: interrupted" in said
    assert "spoken: According to “What a transfer costs”" in said
    assert "output: [ 'transfer-fees' ]" in said
    assert "409 " in said


@pytest.mark.needs("npm")
@pytest.mark.needs("nodejs", program="node")
@pytest.mark.parametrize("package", ["@langchain/langgraph-sdk/react", "@langchain/react"])
def test_the_use_stream_page(offline_service: Service, package: str) -> None:
    """The component answers, is opened anew on the same thread, and takes a human's yes, with either package."""
    files = {name: (PROGRAMS / name).read_text("utf-8") for name in ("checks.mjs", "mount.mjs", "docs_page.mjs")}
    (files["page.tsx"],) = [piece for piece in pieces("usestream.md", "tsx", offline_service) if f'from "{package}"' in piece]

    assert "RR-" in output(run_node(files, "docs_page.mjs"))


@pytest.mark.needs("curl")
def test_the_curl_page(offline_service: Service, tmp_path: Path) -> None:
    """Every section does what it says."""
    command = ["bash", "-euo", "pipefail", "-c", program("curl.md", "bash", offline_service)]
    said = output(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False))

    names = re.findall(r"^event: (\w+)$", said, re.MULTILINE)
    assert names[0] == "metadata"
    assert names[-1] == "end"
    assert f"\n{len(names) - 2}\n" in said
    assert '"sources":["transfer-fees"]' in said
    assert '"tool":"open_refund_request"' in said
    assert "RR-" in said
    assert '"status":"interrupted"' in said
    assert '"code":"thread_exists"' in said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Within the repository."""
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_names_every_page() -> None:
    """A page that is not listed is not found."""
    index = (ROOT / "docs/clients/README.md").read_text("utf-8")
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []


def test_the_page_about_threads(http: httpx.Client) -> None:
    """Both bodies of a new thread do what the page says of them."""
    lives, begun = (json.loads(body) for body in re.findall(r"^```json\n(.*?)^```", THREADS.read_text("utf-8"), re.DOTALL | re.MULTILINE))

    kept = http.post("/threads", json=lives).raise_for_status().json()["thread_id"]
    thread = http.post("/threads", json=begun).raise_for_status().json()["thread_id"]

    assert http.get(f"/threads/{kept}", params={"include": "ttl"}).json()["ttl"]["ttl_minutes"] == 60
    (message,) = http.get(f"/threads/{thread}/state").json()["values"]["messages"]
    assert (message["type"], message["content"]) == ("human", "hello")
