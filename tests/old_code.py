"""The code of a service from before its newest migration, taken from git, with today's migrations."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import alembic.config
from alembic.script import ScriptDirectory

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 240


class NoOldCode(Exception):
    """Git cannot provide the old code. The message says why."""


@dataclass(frozen=True)
class Outcome:
    passed: list[str]
    failed: list[str]
    loaded: list[Path]  # the files of the imported modules of shared and the services
    tail: str


@dataclass(frozen=True)
class OldCode:
    service: str
    commit: str
    tree: Path

    @property
    def versions(self) -> Path:
        return self.tree / "services" / self.service / "migrations" / "versions"

    @property
    def tests(self) -> Path:
        return self.tree / "services" / self.service / "tests"

    def run(self, tests: Sequence[str], *options: str, own_sources: bool = True) -> Outcome:
        """Run tests of the tree against the servers of this run.

        With ``own_sources=False`` the tree's code is not on the path, so that they test the checkout's code.
        """
        report, log = self.tree / "report.json", self.tree / "log"
        report.unlink(missing_ok=True)
        sources = sorted(self.tree.glob("services/*/src")) if own_sources else []
        shared = [self.tree / "shared" / "src", self.tree / "shared" / "testkit" / "src"] if own_sources else []
        path = [self.tree, *shared, *sources]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "WITNESS": str(report)}
        # Plain asserts, because rewriting the asserts of a new tree takes as long as some of the tests.
        plain = ("-p", "no:cacheprovider", "--assert=plain", "-q", "--tb=short")
        command = [sys.executable, "-m", "pytest", "-p", "witness", *plain]
        with log.open("wb") as output:
            done = subprocess.run(
                [*command, *options, *tests],
                cwd=self.tree,
                env=environment,
                stdout=output,
                stderr=output,
                timeout=TIMEOUT,
                check=False,
            )
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        if not report.exists():
            raise AssertionError(f"pytest ended with {done.returncode} without a report:\n{tail}")
        seen = json.loads(report.read_text())
        return Outcome(seen["passed"], seen["failed"], [Path(file) for file in seen["loaded"]], tail)

    def own_schema(self) -> None:
        """Restore the migrations of the tree's own commit."""
        shutil.rmtree(self.versions)
        _extract(self.commit, self.tree, self.versions.relative_to(self.tree))


def newest_migration(service: str) -> tuple[str, Path]:
    """Return the id of the head revision, and its file."""
    script = ScriptDirectory.from_config(alembic.config.Config(ROOT / "services" / service / "alembic.ini"))
    head = script.get_revision("head")
    assert head is not None
    return head.revision, Path(head.path)


def code_before(revision: str, versions: Path, root: Path = ROOT) -> str:
    """Return the commit before the one that added the revision, or HEAD if none has.

    Search for the id, because the file may have been renamed. Raise ``NoOldCode`` if there is no such commit.
    """
    if _git(root, "rev-parse", "--show-prefix"):
        raise NoOldCode("this folder is not the root of a checkout")
    commits = _git(root, "log", "--format=%H", f"-S{revision}", "--", str(versions)).split()
    if not commits:
        return _git(root, "rev-parse", "HEAD")
    try:
        return _git(root, "rev-parse", "--verify", f"{commits[-1]}^")
    except NoOldCode as error:
        raise NoOldCode(
            f"the history begins with revision {revision}; `git fetch --unshallow` fetches the rest"
        ) from error


def take_old_code(service: str, folder: Path) -> OldCode:
    """Extract the old code into the folder, with the new migrations. Raise ``NoOldCode`` if there is none."""
    revision, file = newest_migration(service)
    commit = code_before(revision, file.parent)
    _extract(commit, folder)
    old = OldCode(service, commit, folder)
    if not old.versions.exists():
        raise NoOldCode(f"there was no {service} before revision {revision}")
    shutil.rmtree(old.versions)
    shutil.copytree(file.parent, old.versions, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("witness.py"), folder)
    return old


def _extract(commit: str, folder: Path, *parts: Path) -> None:
    # A zip, because Python 3.11 cannot unpack a tar safely.
    command = ["git", "-C", str(ROOT), "archive", "--format=zip", "-1", commit, "--", *map(str, parts)]
    content = subprocess.run(command, env=_environment(), capture_output=True, check=True, timeout=60).stdout
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError as error:
        raise NoOldCode("git is not installed") from error
    if done.returncode:
        raise NoOldCode(done.stderr.strip() or f"git {arguments[0]} failed")
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """Return the environment without the variables that git sets for a hook."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}
