from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.fleet import Fleet, Member
from tests.support.provider import Behaviour, Provider
from tests.support.service import Service

StartService = Callable[..., Service]
StartProvider = Callable[[Behaviour], Provider]


def pytest_itemcollected(item: pytest.Item) -> None:
    """The tests of the document's operations are told apart by id: of those with the same one, pytest-xdist runs one only."""
    label: str | None = getattr(item, "operation_label", None)
    if label is not None:
        item._id = item._id.with_params(label)  # schemathesis and this pytest give all of them the id of the function


@pytest.fixture(scope="module")
def offline_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """What `make run` serves: embedded Redis, offline model, no keys."""
    service = Service(tmp_path_factory.mktemp("service"))
    try:
        yield service.start()
    finally:
        service.close()


@pytest.fixture
def http(offline_service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=offline_service.url, timeout=60) as client:
        yield client


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Starts a service of the test's own: `start_service(API_KEYS="…")`."""
    services: list[Service] = []

    def start(**variables: str) -> Service:
        folder = tmp_path / f"service-{len(services)}"
        folder.mkdir()
        services.append(Service(folder, **variables))
        return services[-1].start()

    yield start
    for service in services:
        service.close()


@pytest.fixture
def start_provider() -> Iterator[StartProvider]:
    """Starts a stand-in provider: `start_provider(lambda request: Reply("hello"))`."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(Provider(behaviour).serving())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Member, Member]]:
    """Two services on one embedded Redis; both accept and execute."""
    fleet = Fleet(tmp_path_factory.mktemp("pair"), None, LEASE_SECONDS="2", EXECUTION="local")
    try:
        yield fleet.gateway(EXECUTION="local", hangs=True), fleet.gateway(EXECUTION="local", hangs=True)
    finally:
        fleet.close()


@pytest.fixture
def one(pair: tuple[Member, Member]) -> Iterator[httpx.Client]:
    """A client of the first of the pair."""
    with httpx.Client(base_url=pair[0].url, timeout=60) as client:
        yield client


@pytest.fixture
def other(pair: tuple[Member, Member]) -> Iterator[httpx.Client]:
    """A client of the second of the pair."""
    with httpx.Client(base_url=pair[1].url, timeout=60) as client:
        yield client
