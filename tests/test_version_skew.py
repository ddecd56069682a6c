"""Roll-outs: pods of the previous release must work on the schema of the new one.

For each service, the code from before its newest migration runs its tests marked ``main_path`` on today's schema.
"Add a migration" in CONTRIBUTING.md describes how to split a change into steps that pass.
"""

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from testkit.plugin import server
from tests.old_code import ROOT, NoOldCode, OldCode, Outcome, code_before, newest_migration, take_old_code

SERVICES = ("events", "tickets", "media", "exports")

BROKEN = """\
The code from before revision {revision} (commit {commit}) fails on the schema of this revision.
While a release is rolled out, pods of the previous release run on it: expand now (add what may be empty or has a
default), and contract in a later release, when no running code needs the old part. See "Add a migration" in
CONTRIBUTING.md.
Failed: {tests}
{tail}"""

# A rename in one step, which must be found.
RENAME = """
from alembic import op
revision = "breaks"
down_revision = {head!r}
def upgrade():
    op.alter_column("event_copies", "timezone", new_column_name="zone")
"""


OUTDATED = """
import pytest

@pytest.mark.main_path
def test_a_date_in_the_past() -> None:
    raise AssertionError
"""


def old_code(service: str, folder: Path) -> OldCode:
    server("TEST_DATABASE_URL")
    try:
        return take_old_code(service, folder / "old")
    except NoOldCode as reason:
        pytest.skip(f"the code from before the newest migration of {service} is not available: {reason}")


def foreign_modules(old: OldCode, outcome: Outcome) -> list[Path]:
    """Return the loaded modules of Rostrum that are not part of the old code."""
    assert outcome.loaded, outcome.tail
    return [file for file in outcome.loaded if not file.is_relative_to(old.tree)]


def broken_by_the_schema(old: OldCode, *options: str) -> tuple[list[str], str]:
    """Return the old tests that fail on the new schema only, and the end of the output."""
    outcome = old.run([str(old.tests)], "-m", "main_path", *options)
    assert not foreign_modules(old, outcome)
    if not outcome.failed:
        assert outcome.passed, f"no test ran:\n{outcome.tail}"
        return [], ""
    # A test that fails on its own schema too has another cause, such as a changed package or a date in the past.
    old.own_schema()
    unrelated = set(old.run(outcome.failed).failed)
    broken = [test for test in outcome.failed if test not in unrelated]
    if not broken and not outcome.passed:
        pytest.skip(f"the code of commit {old.commit[:9]} does not run with the current packages:\n{outcome.tail}")
    return broken, outcome.tail


def check(service: str, folder: Path) -> None:
    old = old_code(service, folder)
    broken, tail = broken_by_the_schema(old)
    if broken:
        revision, _ = newest_migration(service)
        report = BROKEN.format(revision=revision, commit=old.commit[:9], tests=", ".join(broken), tail=tail)
        pytest.fail(report, pytrace=False)


@pytest.fixture(scope="module")
def checks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """Run the checks of the selected services, two at a time, because each of them mostly waits."""
    wanted = [name for name in SERVICES if any(f"[{name}]" in item.nodeid for item in request.session.items)]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(check, name, tmp_path_factory.mktemp(name)) for name in wanted}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", SERVICES)
def test_pods_of_the_previous_release_work_on_the_new_schema(service: str, checks: dict[str, Future[None]]) -> None:
    checks[service].result()


@pytest.mark.timeout(600)
def test_a_rename_of_a_column_that_old_pods_read_is_found_despite_unrelated_failures(tmp_path: Path) -> None:
    old = old_code("tickets", tmp_path)
    head, _ = newest_migration("tickets")
    (old.versions / "breaks.py").write_text(RENAME.format(head=head))
    (old.tests / "test_an_outdated.py").write_text(OUTDATED)
    broken, tail = broken_by_the_schema(old, "--maxfail=2")
    assert broken
    assert not any("outdated" in test for test in broken)
    assert "timezone" in tail


def test_a_run_that_loads_current_code_is_detected(tmp_path: Path) -> None:
    old = old_code("tickets", tmp_path)
    outcome = old.run([str(old.tests)], "--collect-only", own_sources=False)
    assert ROOT / "services/tickets/src/tickets/api.py" in foreign_modules(old, outcome)


class History:
    """A small git checkout with one migration."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.versions = folder / "versions"
        self.versions.mkdir(parents=True)

    def git(self, *arguments: str) -> str:
        author = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(self.root), *author, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, name: str, text: str) -> str:
        (self.root / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", name)
        return self.git("rev-parse", "HEAD")

    def before(self, revision: str) -> str:
        return code_before(revision, self.versions, self.root)


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "checkout")
    history.git("init", "--quiet")
    history.commit("versions/1.py", 'revision = "aaa1"')
    return history


def test_the_old_code_is_the_commit_before_the_revision_despite_later_changes(history: History) -> None:
    old = history.commit("code.py", "old")
    history.commit("versions/2.py", 'revision = "bbb2"\ndown_revision = "aaa1"')
    history.git("mv", "versions/2.py", "versions/2_with_a_better_name.py")
    history.commit("code.py", "new")
    history.commit("versions/2_with_a_better_name.py", 'revision = "bbb2"\ndown_revision = "aaa1"\n# a comment')
    assert history.before("bbb2") == old


def test_the_old_code_is_the_last_commit_until_the_revision_is_committed(history: History) -> None:
    (history.versions / "2.py").write_text('revision = "bbb2"')
    assert history.before("bbb2") == history.git("rev-parse", "HEAD")
    history.git("add", "--all")
    assert history.before("bbb2") == history.git("rev-parse", "HEAD")


def test_a_missing_history_is_reported_with_the_reason(history: History, tmp_path: Path) -> None:
    with pytest.raises(NoOldCode, match="history begins with revision aaa1"):
        history.before("aaa1")

    history.commit("versions/2.py", 'revision = "bbb2"')
    history.git("clone", "--quiet", "--depth=1", history.root.as_uri(), str(tmp_path / "shallow"))
    with pytest.raises(NoOldCode, match="git fetch --unshallow"):
        code_before("bbb2", tmp_path / "shallow" / "versions", tmp_path / "shallow")

    unpacked = History(tmp_path / "unpacked")
    with pytest.raises(NoOldCode, match="not a git repository"):
        unpacked.before("bbb2")

    within_another = History(history.root / "unpacked")
    with pytest.raises(NoOldCode, match="not the root of a checkout"):
        within_another.before("bbb2")
