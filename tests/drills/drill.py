"""One drill: its roles, its load, and its report once all is quiet again."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from shared.settings import Settings
from tests.drills.audit import Collected, Finding, Kind, audit, sent_again, unknown_done
from tests.drills.load import Book, Load
from tests.drills.proxy import Proxy
from tests.drills.roles import Part, Role
from tests.drills.scale import Scale
from tests.drills.servers import Broker, Database
from tests.drills.stage import API, Seen, Stage, Use
from tests.drills.waiting import within

QUIET_TIMEOUT = 60.0
LEAK_PATIENCE = 10.0
# The memory that a process may gain in a drill, for caches and heap fragmentation. A leak per message exceeds it at
# full length.
MEMORY_SLACK = 24 << 20
# What a messenger has open at the broker: for its relay, its consumer, and what it measures and moves.
CONNECTIONS, CHANNELS = 2, 3
POOL_SIZE = int(Settings.model_fields["database_pool_size"].default)


@dataclass(frozen=True)
class Report:
    """The figures of a drill.

    ``sent_again`` counts repetitions on the bus, ``redelivered`` second deliveries by the broker, ``absorbed``
    those of both that the inbox dropped. ``unknown_done`` counts the writes with an unknown answer that were
    done. ``drained`` is the time in seconds from the end of the fault until all earlier writes had arrived,
    ``quiet`` that from the end of the load until nothing moved.
    """

    findings: list[Finding]
    answers: Counter[str]
    statuses: Counter[int | None]
    unknown_done: int
    messages: int
    sent_again: int
    redelivered: int
    absorbed: int
    stale: int
    drained: float | None
    quiet: float
    slowest: float
    failures: int

    @property
    def accepted_share(self) -> float:
        return self.answers["accepted"] / self.answers.total()

    @property
    def kinds(self) -> set[Kind]:
        return {finding.kind for finding in self.findings}

    def row(self) -> dict[str, str]:
        """Return the row for the table of drills."""
        return {
            "writes": str(self.answers.total()),
            "accepted": str(self.answers["accepted"]),
            "refused": str(self.answers["refused"]),
            "unknown": f"{self.answers['unknown']} ({self.unknown_done} done)" if self.answers["unknown"] else "0",
            "slowest": f"{self.slowest:.2f} s",
            "messages": str(self.messages),
            "sent again": str(self.sent_again),
            "redelivered": str(self.redelivered),
            "absorbed": str(self.absorbed),
            "stale": str(self.stale),
            "drained": "" if self.drained is None else f"{self.drained:.1f} s",
            "quiet": f"{self.quiet:.1f} s",
            "found": ", ".join(f"{kind} {count}" for kind, count in Counter(f.kind for f in self.findings).items()),
        }


class Drill:
    def __init__(self, stage: Stage, scale: Scale, record: Callable[[Report], None]) -> None:
        self.stage = stage
        self.scale = scale
        self.book = Book()
        self.bus: list[Seen] = []
        self.drained_after: float | None = None
        self.last_report: Report | None = None
        self._record = record
        self._before: Use | None = None

    @property
    def broker(self) -> Broker:
        return self.stage.broker

    @property
    def database(self) -> Database:
        return self.stage.database

    @property
    def wire(self) -> Proxy:
        return self.stage.wire

    def role(self, part: Part) -> Role:
        return self.stage.roles[part]

    async def begin(self, *parts: Part) -> None:
        """Run only these roles besides the api, on empty tables and queues, until each has worked once."""
        await self.stage.cast(*({API, *parts} & self.stage.roles.keys()))
        await self.stage.clear()
        await self.stage.cast(API, *parts)
        await self.stage.begin_count()
        async with self.load() as load:
            await load.go_on(0.5)
        await self._until_quiet()
        self._before = await self.stage.use()

    def load(self, *, rate: float | None = None, url: str | None = None) -> Load:
        """Write while the block runs, directly to the api unless ``url`` is given."""
        rate = self.scale.rate if rate is None else rate
        return Load(url or self.stage.api_url, self.stage.credentials, self.book, rate=rate)

    async def strike(self, part: Part) -> None:
        """Let the part's fault kill it, and start it again with the fault inactive."""
        self.role(part).arm_kill()
        assert await self.role(part).died() == -signal.SIGKILL
        await self.stage.start(part)

    async def drained(self, *, at_most: float = QUIET_TIMEOUT) -> float:
        """Wait until all that is committed now has arrived, and return the seconds. Raises ``TimeoutError``."""
        began_at = time.monotonic()
        now = await self.stage.clock()
        await within(at_most, lambda: self.stage.has_arrived(now))
        self.drained_after = time.monotonic() - began_at
        return self.drained_after

    async def all_sent(self) -> None:
        """Wait until the outbox has no unpublished row."""

        async def is_empty() -> bool:
            return not await self.stage.count_unpublished()

        await within(QUIET_TIMEOUT, is_empty)

    async def take_from_bus(self) -> Sequence[Seen]:
        """Return the messages on the bus since the last call, and keep them for the audit."""
        taken = await self.stage.take_from_bus()
        self.bus += taken
        return taken

    async def report(self, *, poison: str | None = None, may_skip: bool = False) -> Report:
        """Audit when all is quiet, or the state at the timeout."""
        quiet = await self._until_quiet()
        while await self.take_from_bus():  # a connection that was given up may still deliver a copy
            await self._until_quiet()
        found = Collected(
            writes=self.book.writes,
            states=await self.stage.states(),
            outbox=await self.stage.outbox(),
            bus=[seen.fact for seen in self.bus],
            effects=await self.stage.effects(),
            unpublished=await self.stage.count_unpublished(),
            waiting=await self.stage.count_waiting(),
            dead=await self.stage.take_dead_letters(),
        )
        outcomes = self.stage.outcomes()
        self.last_report = Report(
            findings=[*audit(found, poison=poison, may_skip=may_skip), *await self._leaks()],
            answers=self.book.answers(),
            statuses=self.book.statuses(),
            unknown_done=unknown_done(found),
            messages=len(found.outbox),
            sent_again=sent_again(found),
            redelivered=await self.stage.count_redelivered(),
            absorbed=outcomes["duplicate"],
            stale=outcomes["stale"],
            drained=self.drained_after,
            quiet=quiet,
            slowest=max(write.seconds for write in self.book.writes),
            failures=self.book.failures(),
        )
        self._record(self.last_report)
        return self.last_report

    async def _until_quiet(self) -> float:
        began_at = time.monotonic()
        with suppress(TimeoutError):  # the audit reports what is stuck
            await within(QUIET_TIMEOUT, self.stage.is_quiet)
        return time.monotonic() - began_at

    async def _leaks(self) -> list[Finding]:
        found: list[Finding] = []

        async def is_as_before() -> bool:
            found[:] = _leaked(self._before, await self.stage.use(), self.stage.roles) if self._before else []
            return not found

        with suppress(TimeoutError):
            await within(LEAK_PATIENCE, is_as_before)
        return found


def _leaked(before: Use, after: Use, roles: dict[Part, Role]) -> list[Finding]:
    """Return the leaks. Pools may have filled, and memory may have grown by ``MEMORY_SLACK``."""
    found = []
    members = Counter(part.module.replace("tests.drills.ledger", "ledger.messenger") for part in roles)
    for name, count in after.sessions.items():
        allowed = max(before.sessions[name], POOL_SIZE * members[name])
        if count > allowed:
            found.append(Finding("leaked", f"{count} database sessions of {name}, expected at most {allowed}"))
    if after.transactions:
        found.append(Finding("leaked", f"{after.transactions} transactions are open"))
    if any(part.module.endswith(".worker") for part in roles):
        expected = before.broker  # dramatiq decides how many a worker has
    else:
        at_work = sum(not part.module.endswith(".api") for part in roles)
        expected = (CONNECTIONS * at_work, CHANNELS * at_work)
    for what, count, allowed in zip(("connections", "channels"), after.broker, expected, strict=True):
        if count > allowed:
            found.append(Finding("leaked", f"{count} {what} of the broker, expected at most {allowed}"))
    for pid, memory in after.memory.items():
        grown = memory - before.memory.get(pid, memory)
        if grown > MEMORY_SLACK:
            found.append(Finding("leaked", f"process {pid} has grown by {grown >> 20} MiB"))
    return found
