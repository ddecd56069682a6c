"""Fixtures of the journeys: a whole cluster as processes, used through the gateway."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import free_port
from deploy.local.running import read_running
from tests.cluster import Cluster

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT.parent / "shared" / "samples"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    state = tmp_path_factory.mktemp("cluster")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "RABBITMQ_URL", "STORAGE_PLACE")
    }
    environment = {
        **inherited,
        "ROSTRUM_STATE": str(state),
        "GATEWAY_PORT": str(free_port()),
        # The tests send more requests than one client may.
        "RATE_LIMIT_AVERAGE": "10000",
        "RATE_LIMIT_BURST": "10000",
    }
    cluster = Cluster(state, "", environment)
    started = cluster.run("up", "--detach")
    if started.returncode != 0:
        pytest.fail(f"the cluster did not start:\n{started.stdout}\n{started.stderr}")
    running = read_running(state)
    assert running is not None
    try:
        yield Cluster(state, running.gateway_url, environment)
    finally:
        stopped = cluster.run("down")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr


@pytest.fixture
def organizer(cluster: Cluster) -> Iterator[httpx.Client]:
    with cluster.client() as client:
        yield client


@pytest.fixture
def stranger(cluster: Cluster) -> Iterator[httpx.Client]:
    """Another organizer, with every scope."""
    with cluster.client("intruder") as client:
        yield client


@pytest.fixture
def public(cluster: Cluster) -> Iterator[httpx.Client]:
    with cluster.client(None) as client:
        yield client


@pytest.fixture
def sample() -> Callable[[str], Path]:
    def path_of(name: str) -> Path:
        path = SAMPLES / name
        if not path.exists():
            pytest.skip("the samples of real conferences are not next to this checkout")
        return path

    return path_of
