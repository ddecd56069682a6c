"""A roll-out: pods of the release before go on working with the schema of the new one.

For each service the code from before its newest migration runs its own tests of that time, on today's schema.
CONTRIBUTING.md, "Add a migration", tells how a change is cut into steps that pass.
"""

import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from testkit.plugin import server
from tests.old_code import ROOT, NoOldCode, OldCode, Outcome, code_before, newest_migration, take_old_code

# The main paths of each service, by HTTP and by handlers; without processes, refusals, and what takes long.
TESTS = {
    "events": ("test_events.py", "test_images.py", "test_programme.py"),
    "tickets": ("test_events.py", "test_tickets.py", "test_order.py", "test_lists.py"),
    "media": ("images/test_uploads.py", "images/test_tasks.py", "images/test_internal.py"),
    "exports": ("exports/test_exports.py", "imports/test_uploads.py", "imports/test_import_job.py"),
}
# Words of tests' names: what never gets as far as the tables, what other tests show as well, and what takes long.
LEFT_OUT = (
    *("s3", "bad", "refused", "fault_of_ours", "emptied", "limit", "one_byte", "no_form", "changed_opens"),
    *("gap", "usable", "only_what", "days_of", "pages_of", "number_of", "every_kind", "busy", "neighbour"),
    *("killed", "dies", "follower", "stream", "largest", "breaks_off", "without_a_token", "damaged", "commit_that"),
    *("comes_late", "same_words", "still_converted", "schedule_of", "zone_change", "cached", "cut_off"),
)

BROKEN = """\
The code from before revision {revision} (commit {commit}) fails with the schema that this revision makes.
While a release is rolled out, pods of the release before run on it: expand now (add what may be empty or has a
default), and contract in a later release, when no running code needs the old part. CONTRIBUTING.md says how.
Broken: {tests}
{tail}"""

# What a hurried rename would be.
RENAME = """
from alembic import op
revision = "breaks"
down_revision = {head!r}
def upgrade():
    op.alter_column("event_copies", "timezone", new_column_name="zone")
"""


def old_code(service: str, folder: Path) -> OldCode:
    server("TEST_DATABASE_URL")
    try:
        return take_old_code(service, folder / "old")
    except NoOldCode as reason:
        pytest.skip(f"the code from before the newest migration of {service} is not to be had: {reason}")


def files_of(old: OldCode, names: Sequence[str]) -> list[str]:
    found = [str(old.tests / name) for name in names if (old.tests / name).exists()]
    assert found, f"none of {names} was there at commit {old.commit[:9]}: choose tests that were"
    return found


def strangers(old: OldCode, outcome: Outcome) -> list[Path]:
    """Modules of ours that ran and are not the old code."""
    assert outcome.loaded, outcome.tail
    return [file for file in outcome.loaded if not file.is_relative_to(old.tree)]


def broken_by_the_schema(old: OldCode, names: Sequence[str], *options: str) -> tuple[list[str], str]:
    """The old tests that fail with the new schema and pass with their own, and the end of what they said."""
    outcome = old.run(files_of(old, names), "-k", f"not ({' or '.join(LEFT_OUT)})", *options)
    assert not strangers(old, outcome)
    if not outcome.failed:
        assert outcome.passed, f"no test ran:\n{outcome.tail}"
        return [], ""
    # What fails with its own schema too is not the schema's fault: a package that has changed, a date that is over.
    old.own_schema()
    blameless = set(old.run(outcome.failed).failed)
    broken = [test for test in outcome.failed if test not in blameless]
    if not broken and not outcome.passed:
        pytest.skip(f"the code of commit {old.commit[:9]} does not run with today's packages:\n{outcome.tail}")
    return broken, outcome.tail


def look_at(service: str, folder: Path) -> None:
    old = old_code(service, folder)
    broken, tail = broken_by_the_schema(old, TESTS[service])
    if broken:
        revision, _ = newest_migration(service)
        told = BROKEN.format(revision=revision, commit=old.commit[:9], tests=", ".join(broken), tail=tail)
        pytest.fail(told, pytrace=False)


@pytest.fixture(scope="module")
def looks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """Of the services that were asked for; two at a time, as much of each is waiting."""
    wanted = [name for name in TESTS if any(f"[{name}]" in item.nodeid for item in request.session.items)]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(look_at, name, tmp_path_factory.mktemp(name)) for name in wanted}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", TESTS)
def test_pods_of_the_release_before_work_with_the_new_schema(service: str, looks: dict[str, Future[None]]) -> None:
    looks[service].result()


@pytest.mark.timeout(600)
def test_a_revision_that_renames_what_old_pods_read_is_found_and_not_mixed_up_with_a_test_that_has_rotted(
    tmp_path: Path,
) -> None:
    old = old_code("tickets", tmp_path)
    head, _ = newest_migration("tickets")
    (old.versions / "breaks.py").write_text(RENAME.format(head=head))
    (old.tests / "test_rotten.py").write_text("def test_a_date_that_is_over() -> None:\n    raise AssertionError")
    broken, tail = broken_by_the_schema(old, ["test_rotten.py", "test_events.py"], "--maxfail=2")
    assert broken
    assert all("test_events.py" in test for test in broken)
    assert "timezone" in tail


def test_a_run_with_the_code_of_today_is_noticed(tmp_path: Path) -> None:
    old = old_code("tickets", tmp_path)
    outcome = old.run(files_of(old, ["test_events.py"]), "--collect-only", own_sources=False)
    assert ROOT / "services/tickets/src/tickets/api.py" in strangers(old, outcome)


class History:
    """A checkout with one migration, small enough to be had in every shape."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.versions = folder / "versions"
        self.versions.mkdir(parents=True)

    def git(self, *words: str) -> str:
        author = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(self.root), *author, *words]
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


def test_the_old_code_is_that_of_before_the_revision_whatever_came_since(history: History) -> None:
    old = history.commit("code.py", "old")
    history.commit("versions/2.py", 'revision = "bbb2"\ndown_revision = "aaa1"')
    history.git("mv", "versions/2.py", "versions/2_with_a_better_name.py")
    history.commit("code.py", "new")
    history.commit("versions/2_with_a_better_name.py", 'revision = "bbb2"\ndown_revision = "aaa1"\n# a remark')
    assert history.before("bbb2") == old


def test_the_old_code_is_the_last_commit_while_the_revision_is_not_committed(history: History) -> None:
    (history.versions / "2.py").write_text('revision = "bbb2"')
    assert history.before("bbb2") == history.git("rev-parse", "HEAD")
    history.git("add", "--all")
    assert history.before("bbb2") == history.git("rev-parse", "HEAD")


def test_without_the_history_there_is_no_old_code_and_the_reason_is_told(history: History, tmp_path: Path) -> None:
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
    with pytest.raises(NoOldCode, match="no checkout of its own"):
        within_another.before("bbb2")
