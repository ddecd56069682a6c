"""``prepare.sh`` reports what is missing, and generates secrets once."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.local.running import ROOT

FOLDER = ROOT / "deploy" / "compose"
DOCKER = """\
#!/bin/sh
case "$*" in
  "compose version --short") {compose};;
  "version --format"*) {engine};;
  *) exit 1;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with only what the script reads; commands come from its ``bin`` only."""
    (tmp_path / "deploy" / "compose").mkdir(parents=True)
    for name in ("prepare.sh", "env.example"):
        shutil.copy(FOLDER / name, tmp_path / "deploy" / "compose")
    (tmp_path / "bin").mkdir()
    for command in ("sh", "dirname", "sort", "head", "grep", "od", "tr", "touch", "cat"):
        (tmp_path / "bin" / command).symlink_to(shutil.which(command) or f"/bin/{command}")
    return tmp_path


def has_docker(checkout: Path, *, compose: str = "echo 2.40.3", engine: str = "echo 28.2.2") -> None:
    docker = checkout / "bin" / "docker"
    docker.write_text(DOCKER.format(compose=compose, engine=engine))
    docker.chmod(0o755)


def prepare(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "deploy/compose/prepare.sh"],
        cwd=checkout,
        env={**os.environ, "PATH": str(checkout / "bin")},
        capture_output=True,
        text=True,
    )


def secrets(checkout: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(\S+)$", (checkout / ".env").read_text(), re.MULTILINE))


def test_missing_docker_is_reported_in_one_line_with_the_way_out(checkout: Path) -> None:
    failed = prepare(checkout)
    assert failed.returncode == 1
    assert re.fullmatch(r"Docker is missing: .*https://docs\.docker\.com/engine/install.*\n", failed.stderr)
    assert not (checkout / ".env").exists()


@pytest.mark.parametrize(
    ("compose", "engine", "message"),
    [
        ("exit 1", "echo 28.2.2", "compose plugin is missing"),
        ("echo 2.17.0", "echo 28.2.2", "compose plugin is 2.17.0, but must be 2.23.1"),
        ("echo v2.9.9", "echo 28.2.2", "compose plugin is v2.9.9, but must be 2.23.1"),
        ("echo 2.40.3", "exit 1", "No Docker engine answers"),
        ("echo 2.40.3", "echo 24.0.7", "engine is 24.0.7, but must be 25"),
    ],
)
def test_a_missing_or_outdated_part_is_reported_in_one_line(
    checkout: Path, compose: str, engine: str, message: str
) -> None:
    has_docker(checkout, compose=compose, engine=engine)
    failed = prepare(checkout)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(("compose", "engine"), [("2.23.1", "25.0.0"), ("v5.0.1", "26.1.5+dfsg1")])
def test_supported_versions_are_accepted(checkout: Path, compose: str, engine: str) -> None:
    has_docker(checkout, compose=f"echo {compose}", engine=f"echo {engine}")
    done = prepare(checkout)
    assert (done.returncode, done.stderr) == (0, "")


def test_secrets_are_generated_once_and_readable_by_their_owner_only(checkout: Path) -> None:
    has_docker(checkout)
    assert prepare(checkout).returncode == 0
    made = secrets(checkout)
    random = [value for name, value in made.items() if name.endswith(("PASSWORD", "SECRET", "KEY"))]
    assert len(random) == len(set(random)) >= 12
    assert all(re.fullmatch("[0-9a-f]{40}", value) for value in random)
    assert (checkout / ".env").stat().st_mode & 0o777 == 0o600

    assert prepare(checkout).stdout == ""
    assert secrets(checkout) == made


def test_a_new_secret_is_added_to_existing_ones(checkout: Path) -> None:
    has_docker(checkout)
    (checkout / ".env").write_text("GATEWAY_PORT=9000\nPOSTGRES_PASSWORD=chosen\n")
    assert prepare(checkout).returncode == 0
    made = secrets(checkout)
    assert (made["GATEWAY_PORT"], made["POSTGRES_PASSWORD"]) == ("9000", "chosen")
    assert len(made["RABBITMQ_PASSWORD"]) == 40
