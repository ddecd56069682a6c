"""Rules and dashboard use existing metrics, and each alert has a runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase

from deploy.observability import queries
from deploy.observability.prometheus import FOLDER, PrometheusMissing, program
from shared.telemetry import metrics
from shared.telemetry.metrics import TARGET_LABELS

OPERATIONS = (FOLDER.parents[1] / "docs" / "operations.md").read_text()
# Metrics of the client library, and of Prometheus itself.
OTHERS = re.compile(r"up|ALERTS|process_\w+|python_\w+")
SERVERS = re.compile(r"(rabbitmq|traefik|pg|cnpg|kubelet_volume_stats|node_filesystem|certmanager_certificate)_\w+")


def known() -> dict[str, set[str]]:
    """Return every series of Rostrum with its labels."""
    found: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            described = next(iter(metric.describe()))
            labels = set(metric._labelnames)
            if isinstance(metric, Histogram):
                found |= {f"{described.name}_{part}": labels for part in ("sum", "count")}
                found[f"{described.name}_bucket"] = labels | {"le"}
            else:
                found[described.name + ("_total" if described.type == "counter" else "")] = labels
    return found


def unknown(query: str) -> list[str]:
    """Return the metrics and labels of a query that no process exports."""
    series, strange = known(), []
    for name, labels in queries.metrics_of(query).items():
        if name in series:
            strange += [f"{name}{{{label}}}" for label in labels - series[name] - TARGET_LABELS]
        elif not OTHERS.fullmatch(name):
            strange.append(name)
    return strange


@pytest.mark.parametrize("alert", queries.alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_uses_existing_metrics_and_has_a_runbook(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    if alert["group"] == "rostrum-servers":
        assert all(SERVERS.fullmatch(metric) for metric in queries.metrics_of(alert["expr"]))
    else:
        assert unknown(alert["expr"]) == []
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    [section] = re.findall(rf"^#### {name}\n(.*?)(?=^#|\Z)", OPERATIONS, re.MULTILINE | re.DOTALL)
    parts = re.findall(r"\*\*(Means|Look|Do|Ends)\.\*\*", section)
    assert parts == ["Means", "Look", "Do", "Ends"]


def test_runbooks_and_alerts_are_the_same() -> None:
    assert re.findall(r"^#### (\w+)$", OPERATIONS, re.MULTILINE) == [item["alert"] for item in queries.alerts()]


def test_every_panel_uses_existing_metrics() -> None:
    assert {query: strange for _, query in queries.dashboard_queries() if (strange := unknown(query))} == {}


def test_a_query_with_an_unknown_metric_is_found() -> None:
    assert unknown('rate(rostrum_messages_eaten_total{service="events"}[5m])') == ["rostrum_messages_eaten_total"]
    assert unknown('sum(rostrum_jobs{actor="a", mood="bad"})') == ["rostrum_jobs{mood}"]
    assert unknown("rostrum_job_seconds > 5") == ["rostrum_job_seconds"]


def test_every_metric_is_on_the_dashboard_or_in_a_rule() -> None:
    asked = [query for _, query in queries.dashboard_queries()] + [item["expr"] for item in queries.alerts()]
    seen = {name for query in asked for name in queries.metrics_of(query)}
    metrics = {re.sub(r"_(sum|count|bucket)$", "", name) for name in known()}
    used = {re.sub(r"_(sum|count|bucket)$", "", name) for name in seen}
    assert metrics - used == {"rostrum_messages_redelivered_total", "rostrum_jwks_loaded_timestamp_seconds"}


def test_panels_do_not_overlap() -> None:
    panels = queries.panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.fixture
def promtool() -> Path:
    try:
        return program("promtool")
    except PrometheusMissing as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    "words", [("check", "config", "prometheus.yml"), ("test", "rules", "tests/rules_test.yml")], ids=" ".join
)
def test_promtool_accepts_the_files_and_the_alerts_fire(promtool: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run([promtool, *words], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
