"""Writes alerts and dashboards for the Prometheus operator from ``deploy/observability``: one source for all.

``python -m deploy.k8s.observability`` writes ``components/monitoring/from-observability/``, ``stale`` says what is
not as it would be written. Rules are files of Prometheus (a map with ``groups``), dashboards are Grafana's JSON.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from deploy.local.running import ROOT

SOURCE = ROOT / "deploy" / "observability"
TARGET = ROOT / "deploy" / "k8s" / "components" / "monitoring" / "from-observability"
HEADER = "# Written by `python -m deploy.k8s.observability` from deploy/observability: change that.\n"


class _Text(yaml.SafeDumper):
    """Several lines are written as several lines."""


def _as_block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Text.add_representer(str, _as_block)


def _dumped(manifest: object) -> str:
    return HEADER + yaml.dump(manifest, Dumper=_Text, sort_keys=False, allow_unicode=True, width=116)


def _files(*endings: str) -> list[Path]:
    found = (path for path in SOURCE.rglob("*") if path.suffix in endings)
    return sorted(path for path in found if "tests" not in path.relative_to(SOURCE).parts)


def _rules() -> Iterator[tuple[str, dict[str, object]]]:
    for path in _files(".yml", ".yaml"):
        content = yaml.safe_load(path.read_text())
        if isinstance(content, dict) and isinstance(content.get("groups"), list):
            yield path.stem.split(".")[0], content


def _dashboards() -> Iterator[tuple[str, str]]:
    for path in _files(".json"):
        text = path.read_text()
        if '"panels"' in text:
            yield path.stem, text


def written() -> dict[str, str]:
    """Name of each file and its content."""
    files: dict[str, str] = {}
    for name, content in _rules():
        files[f"alerts-{name}.yaml"] = _dumped(
            {
                "apiVersion": "monitoring.coreos.com/v1",
                "kind": "PrometheusRule",
                "metadata": {"name": f"rostrum-{name}"},
                "spec": {"groups": content["groups"]},
            }
        )
    for name, text in _dashboards():
        files[f"dashboard-{name}.yaml"] = _dumped(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                # By this label Grafana's sidecar finds it.
                "metadata": {"name": f"rostrum-dashboard-{name}", "labels": {"grafana_dashboard": "1"}},
                "data": {f"{name}.json": text},
            }
        )
    files["kustomization.yaml"] = HEADER + yaml.safe_dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": sorted(files),
        },
        sort_keys=False,
    )
    return files


def stale() -> list[str]:
    """What would be written otherwise, one line each with the way out."""
    wanted = written()
    there = {path.name: path.read_text() for path in TARGET.glob("*.yaml")}
    names = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    return [
        f"{(TARGET / name).relative_to(ROOT)} is stale: python -m deploy.k8s.observability writes it"
        for name in names
    ]


def main() -> int:
    TARGET.mkdir(parents=True, exist_ok=True)
    wanted = written()
    for path in TARGET.glob("*.yaml"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (TARGET / name).write_text(text)
        print((TARGET / name).relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
