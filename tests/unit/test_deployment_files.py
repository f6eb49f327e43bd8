"""What can be checked of the deployment without a container engine."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from app.telemetry import metrics
from app.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")
OFFERED = dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.MULTILINE))
COMPOSE_PART = EXAMPLE[EXAMPLE.index("Only for docker-compose.yml") :]
COMPOSE_ONLY = frozenset(re.findall(r"^# ([A-Z][A-Z0-9_]*)=", COMPOSE_PART, re.MULTILINE))
REQUIRED = frozenset(re.findall(r"\$\{([A-Z0-9_]+):\?set it in \.env\}", COMPOSE_TEXT))
OPTIONAL_SECRETS = ("OPENAI_API_KEY", "FALLBACK_API_KEY", "WEBHOOK_SECRET", "ADMIN_TOKEN", "BROWSER_TOKEN_SECRET")
SECRET = re.compile(r"PASSWORD|SECRET|SALT|KEY|(?<!NEXT)AUTH")


def filled_env() -> str:
    """`.env.example` with a value for everything that docker-compose.yml insists on."""
    return EXAMPLE + "".join(f"{name}=0123456789abcdef\n" for name in sorted(REQUIRED))


def test_the_example_unchanged_is_a_working_configuration() -> None:
    """Copied to .env it sets nothing at all, so that the embedded defaults apply."""
    assert [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")] == []
    Settings.load(environment={})


def test_every_variable_of_the_example_is_read_by_the_service_or_by_compose() -> None:
    """Nothing is offered that has no effect, and nothing that has one is left out."""
    service = {name for name in OFFERED if name not in COMPOSE_ONLY}
    roles = {name for name in service if name.startswith("MODEL_") and name != "MODEL_FALLBACK"}
    limits = {name for name in service if name.startswith("LIMITS_")}

    assert service - roles - limits == Settings.variables()
    models = Settings.load({"OPENAI_API_KEY": "k", **dict.fromkeys(roles, "m"), **dict.fromkeys(limits, "total=1")}).models
    assert set(models.roles) == {name.removeprefix("MODEL_").lower() for name in roles}
    assert set(models.limits_of_roles) == {name.removeprefix("LIMITS_").lower() for name in limits} == set(models.roles)
    assert COMPOSE_ONLY <= REQUIRED


def test_every_specialist_can_be_given_a_model() -> None:
    """The example and compose name `MODEL_<SPECIALIST>` and `LIMITS_<SPECIALIST>` for each specialist there is."""
    specialists = {path.stem for path in (ROOT / "agents" / "specialists").glob("*.py") if path.stem != "__init__"}

    wanted = {f"{prefix}_{name.upper()}" for name in specialists for prefix in ("MODEL", "LIMITS")}
    assert wanted <= OFFERED.keys()
    assert wanted <= SERVICES["app"]["environment"].keys()


def test_compose_insists_only_on_what_the_example_explains() -> None:
    """Who follows the error messages finds each variable in .env.example."""
    assert OFFERED.keys() >= REQUIRED


def test_compose_gives_the_app_only_variables_that_it_reads() -> None:
    """A variable that nothing reads would promise something."""
    given = {name for name in SERVICES["app"]["environment"] if not re.match(r"MODEL_(?!FALLBACK)|LIMITS_", name)}

    assert given <= Settings.variables()


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_has_a_default(name: str) -> None:
    """Each secret comes from .env, also inside an address; those of features that one may do without may be empty."""
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(variable) and not variable.endswith("ACCESS_KEY_ID"):
            optional = variable in OPTIONAL_SECRETS and value == f"${{{variable}:-}}"
            assert optional or re.search(r"\$\{[A-Z0-9_]+:\?", value), f"{name}: {variable}={value}"
        assert not re.search(r"://\w*:[^$@/]+@", value), f"{name}: {variable}={value}"
    assert not [name for name, value in OFFERED.items() if SECRET.search(name) and value]


def test_the_worker_is_the_app_without_http() -> None:
    """Same image and same settings; what the app accepts, a worker executes."""
    app, worker = SERVICES["app"], SERVICES["worker"]

    shared = {name: value for name, value in worker["environment"].items() if name != "METRICS_PORT"}
    assert app["environment"] == {**shared, "EXECUTION": "workers"}
    assert (worker["build"], worker["command"]) == (app["build"], ["python", "-m", "app.worker"])
    assert "ports" not in worker


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_pinned_healthy_restarted_and_local(name: str) -> None:
    """Exact versions, a health check, a restart policy, and no port open to other machines."""
    service = SERVICES[name]

    if name == "app":
        assert re.search(r"^HEALTHCHECK .*\\\n.*/health/live", DOCKERFILE, re.MULTILINE)
    elif name == "worker":
        assert service["healthcheck"] == {"disable": True}  # it serves nothing that could be asked
    else:
        assert re.fullmatch(r"[a-z./-]+:(?:v?\d+\.\d+[\w.-]*|RELEASE\.[\dTZ-]+)", service["image"])
        assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for needed in service.get("depends_on", {}).values():
        assert needed == {"condition": "service_healthy"}


def test_langfuse_web_and_worker_have_the_version_that_the_sdk_needs() -> None:
    """Both the same, and not older than what version 5 of the Python SDK supports (https://langfuse.com/docs/compatibility)."""
    web, worker = (SERVICES[name]["image"].split(":")[1] for name in ("langfuse-web", "langfuse-worker"))

    assert web == worker
    assert tuple(map(int, web.split("."))) >= (4, 59, 0)


def test_what_is_mounted_exists() -> None:
    """Every file of the repository that a container mounts is there, every volume declared, none left over."""
    sources = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]

    assert [source for source in sources if source.startswith("./") and not (ROOT / source).exists()] == []
    assert {source for source in sources if not source.startswith("./")} == set(COMPOSE["volumes"])


@pytest.mark.needs("docker-compose")
def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    """With a filled .env it is valid; with the example as it is, it says what to set."""
    for name, env in {"filled": filled_env(), "unchanged": EXAMPLE}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "docker-compose.yml").write_text(COMPOSE_TEXT, "utf-8")
        (folder / ".env").write_text(env, "utf-8")
    command = ["docker-compose", "--project-directory", ".", "config", "-q"]
    clean = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}

    filled = subprocess.run(command, cwd=tmp_path / "filled", env=clean, capture_output=True, text=True, timeout=60, check=False)
    assert (filled.returncode, filled.stderr) == (0, "")

    unchanged = subprocess.run(command, cwd=tmp_path / "unchanged", env=clean, capture_output=True, text=True, timeout=60, check=False)
    assert unchanged.returncode != 0
    assert "set it in .env" in unchanged.stderr


def test_the_image_is_built_from_pinned_hashes_and_runs_without_root() -> None:
    """Locked packages, a user of its own, SIGTERM to stop, all interfaces inside the container."""
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["python:3.12-slim"] * 2
    for line in (
        "pip install --require-hashes -r requirements.lock",
        "USER capataz",
        "STOPSIGNAL SIGTERM",
        "HOST=0.0.0.0",
        'CMD ["python", "-m", "app.main"]',
    ):
        assert line in DOCKERFILE
    assert DOCKERFILE.index("USER capataz") > DOCKERFILE.rindex("COPY")


def test_the_image_gets_what_it_copies_and_nothing_else() -> None:
    """Everything copied exists and passes .dockerignore, which lets nothing else through."""
    copied = set(re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE))
    ignore = (ROOT / ".dockerignore").read_text("utf-8").split("\n")

    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == copied
    assert "*" in ignore


def test_the_dashboard_shows_metrics_that_exist() -> None:
    """Every metric is shown, and every query names a metric and labels of the service."""
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "capataz.json").read_text("utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    types = [line.split()[2] for line in Metrics().render().decode().splitlines() if line.startswith("# TYPE")]
    exported = {name for name in types if not name.endswith("_created")}

    used = {name for query in queries for name in re.findall(r"\b(?:capataz|gen_ai_client)_\w+", query)}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in used} == exported
    labels = {label for query in queries for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
    assert [label for label in labels - {"le"} if label not in (metrics.__doc__ or "")] == []


def test_prometheus_and_grafana_point_at_each_other() -> None:
    """The scrape target, the data source and the dashboard folder are those of docker-compose.yml."""
    scrape, workers = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards" / "capataz.yml").read_text("utf-8"))["providers"][0]

    assert scrape["static_configs"][0]["targets"] == ["app:8000"]
    assert workers["dns_sd_configs"] == [{"names": ["worker"], "type": "A", "port": int(SERVICES["worker"]["environment"]["METRICS_PORT"])}]
    assert source["url"] == "http://prometheus:9090"
    assert any(provider["options"]["path"] in mount for mount in SERVICES["grafana"]["volumes"])
