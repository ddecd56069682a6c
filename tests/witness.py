"""pytest plugin for a run in another process: write its outcome and imported modules to the file ``WITNESS``."""

import json
import os
import sys
from pathlib import Path

import pytest

PACKAGES = ("shared", "events", "tickets", "media", "exports")

_passed: list[str] = []
_failed: list[str] = []


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _failed.append(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.append(report.nodeid)
    elif report.when == "call" and report.passed:
        _passed.append(report.nodeid)


def pytest_sessionfinish() -> None:
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in PACKAGES]
    loaded = sorted({file for module in modules if (file := getattr(module, "__file__", None))})
    report = {"passed": _passed, "failed": sorted(set(_failed)), "loaded": loaded}
    Path(os.environ["WITNESS"]).write_text(json.dumps(report))
