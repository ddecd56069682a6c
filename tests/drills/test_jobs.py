"""Workers die, freeze or start a job twice: each job ends, with one result."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from sqlalchemy import delete, func, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from shared.database.engine import Sessions, new_sessions
from shared.database.provisioning import DATABASE, provision
from shared.jobs import rows
from shared.jobs.rows import MAX_ATTEMPTS
from shared.messaging import outbox
from shared.messaging.tables import OUTBOX
from testkit.processes import until
from tests.drills.roles import Part, Role, start_role
from tests.drills.stage import Stage
from tests.drills.workshop import ACTOR, LEASE, QUEUE, SERVICE, Base, Job, Result

MESSENGER = Part("tests.drills.workshop")
WORKER = Part("tests.drills.workshop_worker")
TIMEOUT = 30 + 10 * LEASE


class Workshop:
    """Its database, and its roles as the processes they are. What dies stays dead until a drill starts another."""

    def __init__(self, stage: Stage, sessions: Sessions, folder: Path) -> None:
        self._stage = stage
        self._folder = folder
        self._roles: list[Role] = []
        self.sessions = sessions

    async def start(self, part: Part, *, without: str = "") -> Role:
        environment = {
            "DATABASE_URL": database_url(self._stage),
            "RABBITMQ_URL": self._stage.broker.url(),
            "DRILL_WITHOUT": without,
        }
        role = await start_role(part, environment, self._folder)
        self._roles.append(role)
        return role

    async def close(self) -> None:
        for role in self._roles:
            for process in [role.pid, *_children(role)] if role.is_alive else []:
                os.kill(process, signal.SIGCONT)
            await role.kill()
        async with await self._stage.broker.connect() as connection:
            channel = await connection.channel()
            for queue in (QUEUE, f"{QUEUE}.DQ", f"{QUEUE}.XQ"):
                await channel.queue_delete(queue)
        async with self.sessions.begin() as session:
            for table in (Job, Result, OUTBOX):
                await session.execute(delete(table))

    async def enqueue(self, count: int, *, kills: bool = False, triggers: int = 1) -> list[UUID]:
        """Jobs with this many triggers each."""
        async with self.sessions.begin() as session:
            enqueued = [Job(kills=kills) for _ in range(count)]
            for job in enqueued:
                await rows.enqueue(session, job, actor=ACTOR, queue=QUEUE)
                for number in range(1, triggers):
                    # With numbers that the messenger does not reach.
                    await outbox.add_job(session, ACTOR, queue=QUEUE, job_id=job.id, attempt=1000 + number)
        return [job.id for job in enqueued]

    async def states(self) -> Counter[str]:
        async with self.sessions() as session:
            rows = await session.execute(select(Job.state, func.count()).group_by(Job.state))
            return Counter(dict(rows.all()))

    async def results(self) -> Counter[UUID]:
        async with self.sessions() as session:
            return Counter(await session.scalars(select(Result.job_id)))

    async def until_states(self, **expected: int) -> None:
        async def are_so() -> bool:
            return await self.states() == expected

        try:
            async with asyncio.timeout(TIMEOUT):
                await until(are_so)
        finally:
            assert await self.states() == expected

    async def until_triggers_are_sent(self) -> None:
        async def are_sent() -> bool:
            async with self.sessions() as session:
                return not await session.scalar(select(func.count()).where(OUTBOX.c.published_at.is_(None)))

        async with asyncio.timeout(TIMEOUT):
            await until(are_sent)

    async def is_worker_in_transaction(self) -> bool:
        activity = "SELECT FROM pg_stat_activity WHERE application_name = 'workshop.worker' AND state <> 'idle'"
        async with self.sessions() as session:
            return bool(await session.scalar(text(f"SELECT EXISTS ({activity})")))

    async def lose_triggers(self) -> None:
        async with await self._stage.broker.connect() as connection:
            channel = await connection.channel()
            await (await channel.get_queue(QUEUE)).purge()


def database_url(stage: Stage) -> str:
    return f"postgresql+asyncpg://{SERVICE}:secret@127.0.0.1:{stage.database.port}/{DATABASE}"


@pytest.fixture(scope="session")
async def sessions(stage: Stage) -> AsyncIterator[Sessions]:
    await provision(stage.database.url(), {SERVICE: "secret"})
    engine = create_async_engine(database_url(stage), pool_pre_ping=True)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield new_sessions(engine)
    await engine.dispose()


@pytest.fixture
async def workshop(stage: Stage, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Workshop]:
    workshop = Workshop(stage, sessions, tmp_path)
    yield workshop
    await workshop.close()


def _children(role: Role) -> list[int]:
    return [process.pid for process in psutil.Process(role.pid).children(recursive=True)]


async def freeze(role: Role) -> list[int]:
    """Its processes, which stand still now."""
    frozen = [role.pid, *_children(role)]
    for process in frozen:
        os.kill(process, signal.SIGSTOP)
    return frozen


def thaw(processes: Sequence[int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGCONT)


async def attempts_ended(role: Role, count: int) -> None:
    async def have_ended() -> bool:
        return len(role.lines("job.attempted")) >= count

    async with asyncio.timeout(TIMEOUT):
        await until(have_ended)


async def test_jobs_whose_worker_is_killed_are_done_once_all_the_same(workshop: Workshop) -> None:
    await workshop.start(MESSENGER)
    done = await workshop.enqueue(12)

    async def are_running() -> bool:
        return (await workshop.states())["running"] >= 4

    for _ in range(3):
        worker = await workshop.start(WORKER)
        async with asyncio.timeout(TIMEOUT):
            await until(are_running)
        await worker.kill()
    await workshop.start(WORKER)
    await workshop.until_states(done=12)
    assert await workshop.results() == Counter(done)


async def test_a_frozen_worker_that_comes_back_after_its_jobs_were_done_by_another_changes_nothing(
    workshop: Workshop,
) -> None:
    assert await results_of_a_frozen_worker(workshop, without="") == {1}


async def test_without_the_lease_a_frozen_worker_would_finish_its_jobs_a_second_time(workshop: Workshop) -> None:
    assert 2 in await results_of_a_frozen_worker(workshop, without="lease")


async def results_of_a_frozen_worker(workshop: Workshop, *, without: str) -> set[int]:
    """How many results each job has."""
    _, frozen = await asyncio.gather(workshop.start(MESSENGER), workshop.start(WORKER, without=without))
    done = await workshop.enqueue(4)
    await workshop.until_states(running=4)
    processes = await freeze(frozen)
    while await workshop.is_worker_in_transaction():  # whose row locks PostgreSQL would keep for a minute
        thaw(processes)
        processes = await freeze(frozen)
    await workshop.start(WORKER)
    await workshop.until_states(done=4)
    thaw(processes)
    await attempts_ended(frozen, 4)
    results = await workshop.results()
    assert results.keys() == set(done)
    return set(results.values())


async def test_of_three_triggers_to_start_a_job_one_starts_it(workshop: Workshop) -> None:
    assert await results_of_three_triggers(workshop, without="") == {1}


async def test_without_the_claim_each_trigger_would_start_the_job(workshop: Workshop) -> None:
    assert await results_of_three_triggers(workshop, without="claim") == {3}


async def results_of_three_triggers(workshop: Workshop, *, without: str) -> set[int]:
    """How many results each job has after all triggers were heeded, by two workers at once."""
    done = await workshop.enqueue(8, triggers=3)
    starts = [workshop.start(WORKER, without=without) for _ in range(2)]
    # The messenger would send more triggers than those.
    _, *workers = await asyncio.gather(workshop.start(MESSENGER, without="requeue"), *starts)

    async def are_heeded() -> bool:
        return sum(len(worker.lines("job.attempted")) for worker in workers) >= 3 * 8

    async with asyncio.timeout(TIMEOUT):
        await until(are_heeded)
    results = await workshop.results()
    assert results.keys() == set(done)
    return set(results.values())


async def test_a_job_whose_trigger_is_lost_is_started_by_another(workshop: Workshop) -> None:
    lost = await workshop.enqueue(4)
    await lose_triggers_and_start(workshop, without="")
    await workshop.until_states(done=4)
    assert await workshop.results() == Counter(lost)


async def test_without_requeueing_a_job_whose_trigger_is_lost_would_wait_for_ever(workshop: Workshop) -> None:
    await workshop.enqueue(4)
    await lose_triggers_and_start(workshop, without="requeue")
    later = await workshop.enqueue(8)
    await workshop.until_states(queued=4, done=8)
    assert await workshop.results() == Counter(later)


async def lose_triggers_and_start(workshop: Workshop, *, without: str) -> None:
    await workshop.start(MESSENGER, without=without)
    await workshop.until_triggers_are_sent()
    await workshop.lose_triggers()
    await workshop.start(WORKER)


async def test_a_job_that_kills_its_worker_fails_in_the_end_with_the_reason_and_its_neighbours_are_done(
    workshop: Workshop,
) -> None:
    await workshop.start(MESSENGER)
    (bomb,) = await workshop.enqueue(1, kills=True)
    done = await workshop.enqueue(4)

    async def supervise() -> None:
        while True:
            with suppress(AssertionError):  # it may be killed before it is ready
                worker = await workshop.start(WORKER)
                await worker.died()

    supervising = asyncio.create_task(supervise())
    await workshop.until_states(done=4, failed=1)
    supervising.cancel()
    await asyncio.wait([supervising])
    assert await workshop.results() == Counter(done)
    async with workshop.sessions() as session:
        job = await session.get_one(Job, bomb)
    assert job.attempts == MAX_ATTEMPTS
    assert job.error is not None
    assert job.error["code"] == "job-given-up"
