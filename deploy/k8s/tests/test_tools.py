"""The commands beside the manifests: what they write and what they refuse."""

import importlib
import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

from deploy.k8s import manifests, validation
from deploy.k8s.local_secrets import local_secrets
from deploy.k8s.manifests import OVERLAYS, Manifest
from deploy.k8s.tests.reading import by_name, of_kind
from deploy.observability.queries import DASHBOARD, RULES

BROKEN = {
    "Deployment": ("spec", "template", "spec", "containers", 0, "livenessProbes"),
    "ScaledObject": ("spec", "minReplicas"),
    "Cluster": ("spec", "postgresql", "pgHba"),
    "RabbitmqCluster": ("spec", "image_"),
    "HTTPRoute": ("spec", "rules", 0, "match"),
    "ExternalSecret": ("spec", "target", "template", "dataa"),
    "ObjectStore": ("spec", "configuration", "path"),
}


def broken(manifest: Manifest, path: tuple[str | int, ...]) -> Manifest:
    changed = deepcopy(manifest)
    place = changed
    for step in path[:-1]:
        place = place[step]  # type: ignore[index]
    place[path[-1]] = "x"  # type: ignore[index]
    return changed


@pytest.mark.parametrize("kind", BROKEN)
def test_an_unknown_field_is_an_error(kind: str) -> None:
    manifest = of_kind("production", kind)[0]
    assert list(validation.errors(manifest)) == []
    [error] = validation.errors(broken(manifest, BROKEN[kind]))
    assert str(BROKEN[kind][-1]) in error
    assert manifest["metadata"]["name"] in error


def test_a_wrong_type_is_an_error() -> None:
    manifest = by_name("production", "Deployment")["events-api"]
    assert list(validation.errors(broken(manifest, ("spec", "minReadySeconds"))))


def test_a_kind_without_a_schema_is_an_error() -> None:
    unknown = {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "it"}, "spec": {}}
    assert list(validation.errors(unknown)) == ["Thing it: no schema for example.org/v1 Thing"]


def test_every_overlay_is_written_completely(tmp_path: Path) -> None:
    paths = manifests.write(OVERLAYS, tmp_path)
    assert [path.stem for path in paths] == list(OVERLAYS)
    for path in paths:
        assert path.read_text().count("\nkind: ") == len(manifests.manifests(path.stem))


def test_an_unknown_overlay_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert manifests.main(["staging"]) == 2
    assert capsys.readouterr().err == f"Unknown overlay staging: use one of {', '.join(OVERLAYS)}.\n"


def test_missing_kubectl_is_reported_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    manifests.text_of.cache_clear()
    try:
        assert manifests.main(["local"]) == 1
    finally:
        manifests.text_of.cache_clear()
    [line] = capsys.readouterr().err.splitlines()
    assert "`kubectl` is missing" in line
    assert "make setup" in line


def test_passwords_are_generated_once(tmp_path: Path) -> None:
    def access() -> object:
        found = {each["metadata"]["name"]: each for each in local_secrets(tmp_path, tmp_path / "issuer")}
        return found["events-access"]

    assert access() == access()
    assert (tmp_path / "passwords.json").stat().st_mode & 0o077 == 0


def test_alerts_equal_the_rules_of_prometheus() -> None:
    [rule] = of_kind("production", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text()), "`make k8s-rules` writes them anew"


def test_grafana_gets_the_dashboard() -> None:
    [dashboard] = [
        each
        for each in of_kind("production", "ConfigMap")
        if "grafana_dashboard" in each["metadata"].get("labels", {})
    ]
    assert dashboard["data"] == {DASHBOARD.name: DASHBOARD.read_text()}


def test_alerts_use_existing_metrics() -> None:
    importlib.import_module("shared.telemetry.metrics")
    known = {
        f"{metric.name}{suffix}"
        for metric in REGISTRY.collect()
        for suffix in ("", "_total", "_bucket", "_count", "_sum")
    }
    for rule in of_kind("production", "PrometheusRule"):
        for group in rule["spec"]["groups"]:
            recorded = {each["record"] for each in group["rules"] if "record" in each}
            for each in group["rules"]:
                used = set(re.findall(r"\brostrum_\w+", each["expr"]))
                assert used <= known | recorded, each
