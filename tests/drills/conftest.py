"""Drills: the real processes on servers of their own, which are stopped, killed and cut off while writes go on."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from testkit.plugin import TokenFactory
from tests.drills.drill import Drill
from tests.drills.scale import scale_of_this_run
from tests.drills.stage import Stage

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run twins last, grouped by mechanism: they need roles of their own, and starting a role takes seconds."""
    drills = [item for item in items if item.path.parent == HERE]
    twins = {item: marker.args[0] for item in drills if (marker := item.get_closest_marker("twin")) is not None}
    ordered = iter(sorted(drills, key=lambda item: twins.get(item, "")))
    items[:] = [next(ordered) if item.path.parent == HERE else item for item in items]


@pytest.fixture(scope="session")
async def stage(tokens: TokenFactory, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("drills"), tokens)
    async with stage.open():
        yield stage


@pytest.fixture
async def drill(stage: Stage, record_property: Callable[[str, object], None]) -> AsyncIterator[Drill]:
    drill = Drill(stage, scale_of_this_run(), lambda report: record_property("drill", report.row()))
    yield drill
    if drill.last_report is None or "stuck" in drill.last_report.kinds:
        for role in stage.roles.values():  # pytest prints it when the test has failed
            print(f"{role.part}\n{role.log_tail()}\n")
        await stage.repair()
        await stage.cast()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a table of all drills of this run."""
    rows = {
        report.nodeid.rpartition("::")[2]: dict(report.user_properties)["drill"]
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if any(name == "drill" for name, _ in report.user_properties)
    }
    for name, row in rows.items():
        terminalreporter.write_line(name.removeprefix("test_").replace("_", " "))
        terminalreporter.write_line("    " + " · ".join(f"{key} {value}" for key, value in row.items() if value))
