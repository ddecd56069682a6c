import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.__main__ import NOTHING_RUNS, main
from deploy.local.cluster import plan, settings_of_running
from deploy.local.running import Running


def test_the_operators_command_uses_the_settings_of_the_running_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"DATABASE_URL": "postgresql://root:pw@db.example:6000/postgres", "RABBITMQ_URL": "amqp://mq.example/v"}
    cluster = plan(tmp_path, given)
    monkeypatch.setenv("RABBITMQ_URL", "amqp://elsewhere.example/")
    # A process with the environment of the cluster.
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**os.environ, **given}
    ) as process:
        running = Running(process.pid, ready=True, gateway_url=cluster.gateway_url, ports=dict(cluster.ports))
        settings = settings_of_running(tmp_path, running, "tickets")
    assert settings["SERVICE"] == "tickets"
    assert settings["RABBITMQ_URL"] == "amqp://mq.example/v"
    assert settings["DATABASE_URL"] == cluster.database_url("tickets")


def test_the_operators_command_needs_a_running_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROSTRUM_STATE", str(tmp_path))
    assert main(["messages", "tickets", "dead-letters", "list", "--limit", "3"]) == 1
    assert capsys.readouterr().err == f"{NOTHING_RUNS}\n"
