"""The metrics of a process, and their documentation."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from sqlalchemy import text

from shared.auth.keys import JwksClient
from shared.auth.outgoing import ServiceTokenAuth
from shared.database.engine import new_engine
from shared.problems import Unavailable
from shared.settings import Settings
from shared.telemetry import metrics
from shared.telemetry.metrics import TARGET_LABELS, http_seconds, measured_loop
from shared.walltime import TZDATA_VERSION
from testkit.plugin import TokenFactory

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def ours() -> dict[str, MetricWrapperBase]:
    """Each metric of the module by the name that queries use."""
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            described = next(iter(metric.describe()))
            found[described.name + ("_total" if described.type == "counter" else "")] = metric
    return found


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_the_documentation_names_every_metric_with_its_labels_and_no_other() -> None:
    rows = re.findall(r"^\| `(rostrum_\w+)` \| (\w+) \|([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(rows) == len(documented)
    assert documented == {
        name: (next(iter(metric.describe())).type, tuple(metric._labelnames)) for name, metric in ours().items()
    }


def test_no_label_is_one_that_prometheus_puts_on_the_target() -> None:
    for name, metric in ours().items():
        assert name.startswith("rostrum_")
        assert not TARGET_LABELS & set(metric._labelnames), name


def test_made_up_methods_make_no_series() -> None:
    for method in ("BREW", "WHEN", "PROPFIND"):
        http_seconds(method, "/pots", 405).observe(0)
    assert value("rostrum_http_request_seconds_count", method="other", route="/pots", status="405") == 3
    assert b"BREW" not in generate_latest()


def test_the_tz_database_tells_its_release_and_when_it_is_outdated() -> None:
    assert value("rostrum_tzdata_info", version=TZDATA_VERSION) == 1
    expires_at = value("rostrum_tzdata_expires_timestamp_seconds")
    released_in = int(TZDATA_VERSION[:4])
    assert expires_at is not None
    assert time.gmtime(expires_at).tm_year in (released_in, released_in + 1)


def test_the_process_tells_of_itself_and_of_its_disk() -> None:
    lines = generate_latest().decode()
    assert re.search(r'rostrum_build_info\{python="3\.\d+\.\d+",revision="\w+",version="\w+"\} 1\.0', lines)
    free, size = (value(f"rostrum_disk_{name}_bytes", folder="temporary") for name in ("free", "size"))
    assert free is not None
    assert size is not None
    assert 0 < free <= size
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert f"\n{name} " in lines


def test_a_folder_that_is_not_there_yet_is_measured_where_it_will_be(tmp_path: Path) -> None:
    metrics.watch_folder("probe", tmp_path / "later" / "on")
    assert value("rostrum_disk_size_bytes", folder="probe") == value("rostrum_disk_size_bytes", folder="temporary")
    for gauge in (metrics.DISK_FREE_BYTES, metrics.DISK_SIZE_BYTES):
        gauge.remove("probe")


async def test_a_loop_that_is_kept_busy_shows_its_lag() -> None:
    def late() -> float:
        within = value("rostrum_event_loop_lag_seconds_bucket", le="0.1") or 0
        return (value("rostrum_event_loop_lag_seconds_count") or 0) - within

    before = late()
    async with measured_loop(0.01):
        await asyncio.sleep(0.05)
        time.sleep(0.3)  # noqa: ASYNC251 - the fault to be seen
        await eventually(lambda: late() > before)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is a gauge
            await asyncio.sleep(0.01)


async def test_the_pool_tells_who_uses_it_and_who_waits(settings: Settings) -> None:
    engine = new_engine(settings.model_copy(update={"database_pool_size": 2}), "test")

    def pool() -> tuple[float | None, ...]:
        used, idle = (value("rostrum_database_connections", state=state) for state in ("in_use", "idle"))
        return used, idle, value("rostrum_database_pool_waiting")

    waits = value("rostrum_database_pool_wait_seconds_count") or 0
    enough = asyncio.Event()

    async def use() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await enough.wait()

    assert value("rostrum_database_pool_size") == 2
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(use())
        await eventually(lambda: pool() == (2, 0, 1))
        enough.set()
    assert pool() == (0, 2, 0)
    assert value("rostrum_database_pool_wait_seconds_count") == waits + 1
    await engine.dispose()
    assert pool() == (0, 0, 0)  # also of the pool that took its place


async def test_a_pool_that_is_never_short_times_nobody(settings: Settings) -> None:
    engine = new_engine(settings, "test")
    waits = value("rostrum_database_pool_wait_seconds_count")
    for _ in range(3):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    assert value("rostrum_database_pool_wait_seconds_count") == waits
    await engine.dispose()


async def test_loads_of_the_issuers_keys_are_counted(tmp_path: Path, tokens: TokenFactory) -> None:
    def loads() -> list[float]:
        return [value("rostrum_jwks_loads_total", result=result) or 0 for result in ("loaded", "failed")]

    file = tmp_path / "keys.json"
    before = loads()
    with pytest.raises(Unavailable):
        await JwksClient(file.as_uri()).key("any")
    assert loads() == [before[0], before[1] + 1]
    await JwksClient(tokens.jwks_url).key("any")
    assert loads()[0] == before[0] + 1
    assert time.time() - (value("rostrum_jwks_loaded_timestamp_seconds") or 0) < 60


def test_the_end_of_the_service_token_is_that_of_the_file_as_it_is_now(
    tmp_path: Path, tokens: TokenFactory
) -> None:
    file = tmp_path / "probe.jwt"
    ServiceTokenAuth(file)

    def ends() -> float | None:
        return value("rostrum_service_token_expires_timestamp_seconds", file="probe.jwt")

    assert ends() == 0
    for lifetime in (600, 3600):
        file.write_text(tokens.token(subject="service:probe", exp=int(time.time()) + lifetime))
        assert abs((ends() or 0) - time.time() - lifetime) < 60
    file.write_text("not a token")
    assert ends() == 0
    metrics.SERVICE_TOKEN_EXPIRES_AT.remove("probe.jwt")
