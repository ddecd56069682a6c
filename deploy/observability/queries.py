"""The queries of rules and dashboard, and the metrics in them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from deploy.observability.prometheus import FOLDER

DASHBOARD = FOLDER / "grafana" / "dashboards" / "rostrum.json"
RULES = FOLDER / "rules.yml"


def alerts() -> list[dict[str, Any]]:
    """Return the alerts, each with the name of its ``group``."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [{**rule, "group": group["name"]} for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel and its query, as Grafana sends it for all services."""
    variables = {"$service": ".*", "$role": ".*", "$__rate_interval": "1m"}
    for panel in panels():
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in variables.items():
                query = query.replace(name, value)
            yield panel["title"], query


def metrics_of(query: str) -> dict[str, set[str]]:
    """Return the metrics that a query selects, with the labels in its selectors."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"\b([a-z]+_[a-z0-9_]+|up|ALERTS)\b(?:{(.*?[\"'])})?", query):
        if name not in _WORDS:
            found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*[\"']", selector))
    return found


_WORDS = {"histogram_quantile", "max_over_time", "group_left", "group_right"}
