"""Observability of a healthy cluster: Prometheus with our rules, the dashboard's queries, the logs."""

import json
import re
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.local.ports import free_port
from deploy.local.running import read_running
from deploy.observability import queries
from deploy.observability.prometheus import PrometheusMissing, command, local_configuration
from tests.cluster import Cluster

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

# Panels that have data only after a failure.
QUIET = {"Firing alerts"}


def eventually(condition: Callable[[], Any], *, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError("the condition did not become true")


@pytest.fixture(scope="module")
def busy(cluster: Cluster) -> Cluster:
    """Return the cluster after an import, conversions of pictures, ticket sales and an export."""
    demo = cluster.run("demo")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    return cluster


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("prometheus")
    running = read_running(cluster.state)
    assert running is not None
    configuration, port = folder / "prometheus.yml", free_port()
    configuration.write_text(yaml.safe_dump(local_configuration(running.ports, interval="1s")))
    try:
        arguments = command(configuration, folder / "data", port)
    except PrometheusMissing as reason:
        pytest.skip(str(reason))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                eventually(lambda: is_ready(client), seconds=30)
                yield client
        finally:
            process.terminate()
            process.wait(30)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False


def query_prometheus(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/query", params={"query": query})
    assert answer.status_code == 200, f"{query}: {answer.text}"
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


@pytest.fixture(scope="module")
def watched(prometheus: httpx.Client, busy: Cluster) -> httpx.Client:
    """Return Prometheus after it scraped every process several times."""
    eventually(lambda: len(query_prometheus(prometheus, 'count_over_time(up{role!=""}[1m]) >= 3')) == 10)
    # Gauges of queues and jobs are updated every 15 seconds.
    eventually(lambda: not query_prometheus(prometheus, "rostrum_outbox_unpublished_rows > 0 or rostrum_jobs > 0"))
    return prometheus


def test_every_process_answers_prometheus(watched: httpx.Client) -> None:
    targets = watched.get("/api/v1/targets").json()["data"]["activeTargets"]
    assert {target["scrapeUrl"]: target["lastError"] for target in targets if target["health"] != "up"} == {}
    assert len(targets) == 10


def test_every_panel_of_the_dashboard_has_data(watched: httpx.Client, cluster: Cluster) -> None:
    def empty() -> list[str]:
        panels = [(title, query) for title, query in queries.dashboard_queries() if title not in QUIET]
        return [f"{title}: {query}" for title, query in panels if not query_prometheus(watched, query)]

    if empty():
        # Rates cover the last minute, which may be over on a busy machine, so repeat the work.
        assert cluster.run("demo").returncode == 0
        eventually(lambda: not empty(), seconds=20)
    assert empty() == []


def test_no_alert_fires_on_a_healthy_cluster(watched: httpx.Client) -> None:
    rules = watched.get("/api/v1/rules").json()["data"]["groups"]
    loaded = {rule["name"]: rule for group in rules for rule in group["rules"]}
    assert set(loaded) == {alert["alert"] for alert in queries.alerts()}
    assert {name: rule["lastError"] for name, rule in loaded.items() if rule.get("lastError")} == {}
    # The expressions alone, without `for`: an alert that is pending here could fire on a slower machine.
    firing = {
        alert["alert"]: found for alert in queries.alerts() if (found := query_prometheus(watched, alert["expr"]))
    }
    # The tests' own work keeps two cores busy.
    for busy in ("EventLoopBlocked", "LatencyHigh", "DatabasePoolExhausted"):
        firing.pop(busy, None)
    assert firing == {}


def test_no_process_has_more_series_than_the_documentation_says(watched: httpx.Client) -> None:
    series = query_prometheus(watched, "scrape_samples_post_metric_relabeling")
    counts = {f"{item['metric']['service']}.{item['metric']['role']}": int(item["value"][1]) for item in series}
    assert len(counts) == 10
    assert max(counts.values()) < 500, counts


# -------------------- logs


def lines_of(cluster: Cluster) -> list[str]:
    return (cluster.state / "logs" / "cluster.log").read_text(errors="replace").splitlines()


# Patterns of secrets and of personal data that must not be logged.
SECRETS = {
    "a token": re.compile(r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}"),
    "a bearer header": re.compile(r"[Bb]earer [\w-]{20,}"),
    "a signed link": re.compile(r"[?&](signature|sig|X-Amz-Signature|X-Amz-Credential)=", re.IGNORECASE),
    "a password in an address": re.compile(r"(postgresql|amqp)[\w+]*://[^\s:@/]+:[^\s@/*]{4,}@"),
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.(org|com|net|example|invalid|de)\b"),
}


def secrets_in(lines: list[str]) -> list[str]:
    return [f"{name}: {line[:300]}" for line in lines for name, sign in SECRETS.items() if sign.search(line)]


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "call.sent", "authorization": "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0abc.c2ln"}',
        '{"event": "link.made", "url": "http://gateway/v1/exports/1/download?expires=1&signature=abc"}',
        '{"event": "engine.made", "url": "postgresql+asyncpg://events:hunter22@127.0.0.1/rostrum"}',
        '{"event": "speaker.stored", "email": "ada@example.org"}',
    ],
)
def test_a_line_with_a_secret_is_found(line: str) -> None:
    assert secrets_in([line])


def test_logs_contain_no_secrets_and_no_personal_data(busy: Cluster) -> None:
    speakers, talks = "Ada Confidential", "confidential-biography"
    with busy.client() as organizer, busy.client(None) as public:
        name = f"Logs {time.time_ns()}"
        body = {
            "name": name,
            "timezone": "Europe/Berlin",
            "starts_at": "2031-05-01T09:00",
            "ends_at": "2031-05-02T18:00",
            "owner_name": speakers,
            "owner_description": talks,
        }
        event = organizer.post("/v1/events", json=body).raise_for_status().json()
        # Refused bodies and addresses are reported to the caller, not logged.
        assert organizer.post("/v1/events", json={**body, "ends_at": "ada@example.org"}).status_code == 422
        assert public.get("/v1/events", params={"cursor": "eyJhbGciOiJ9.eyJzdWIiOiJhIn0x"}).status_code == 422
        assert organizer.get("/v1/events", headers={"Authorization": "Bearer " + "x" * 30}).status_code == 401
        answer = organizer.post(f"/v1/events/{event['id']}/exports").raise_for_status()

        def job() -> Any:
            found = organizer.get(answer.headers["location"]).raise_for_status().json()
            return found if found["state"] in ("done", "failed") else None

        exported = eventually(job)
        assert httpx.get(exported["download_url"]).is_success
        signature = exported["download_url"].partition("?")[2]
        assert signature
    lines = lines_of(busy)
    assert sum(event["id"] in line for line in lines) > 2  # the journey is in these logs
    assert secrets_in(lines) == []
    state = busy.state
    secrets = {
        name: value
        for name, value in json.loads((state / "secrets.json").read_text()).items()
        if isinstance(value, str)
    }
    tokens = {path.name: path.read_text().strip() for path in (state / "tokens").iterdir() if path.is_file()}
    personal = {"speaker": speakers, "biography": talks, "signature": signature, "name of the event": name}
    for what, value in {**secrets, **tokens, **personal}.items():
        assert not any(value in line for line in lines), what
    # The speakers of the archive that the demo imported.
    for person in people(Path(__file__).resolve().parents[1] / "deploy" / "local" / "demo-archive.zip"):
        assert not any(person in line for line in lines), person


def people(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        speakers = json.loads(opened.read("speakers"))
    return {value for speaker in speakers for value in (speaker.get("name"), speaker.get("email")) if value}
