from uuid import UUID

from prometheus_client import REGISTRY
from sqlalchemy import select, text

from shared.database.engine import Sessions
from shared.jobs.attempts import claim
from shared.jobs.requeue import requeue_lost_jobs
from shared.jobs.rows import LEASE, MAX_ATTEMPTS, JobColumns
from testkit.jobs import ACTOR, QUEUE, count_triggers, enqueued, expire, read_job


async def requeue(sessions: Sessions, job_class: type[JobColumns]) -> None:
    await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue=QUEUE)


async def test_a_job_that_a_killed_worker_left_behind_is_triggered_once_more(
    sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id):
        await expire(sessions, job_class, job_id)
        await requeue(sessions, job_class)
        assert await count_triggers(sessions) == 2
        await requeue(sessions, job_class)
        assert await count_triggers(sessions) == 2


async def test_a_job_that_kills_every_worker_fails(sessions: Sessions, job_class: type[JobColumns]) -> None:
    job_id = await enqueued(sessions, job_class)
    for _ in range(MAX_ATTEMPTS):
        async with claim(sessions, job_class, job_id) as run:
            assert run is not None  # and the process dies here, without a write
        await expire(sessions, job_class, job_id)
        async with claim(sessions, job_class, job_id) as run:
            assert run is None, "a trigger that is delivered again must not start a job that is not requeued"
        await requeue(sessions, job_class)
    job = await read_job(sessions, job_class, job_id)
    assert job.error is not None
    assert (job.state, job.error["code"]) == ("failed", "job-given-up")


async def test_jobs_that_lost_two_attempts_run_one_at_a_time(
    sessions: Sessions, job_class: type[JobColumns]
) -> None:
    async def start(*job_ids: UUID) -> list[UUID]:
        """Start attempts that end without a write. Return those that could begin."""
        started = []
        for job_id in job_ids:
            async with claim(sessions, job_class, job_id) as run:
                if run is not None:
                    started.append(job_id)
        return started

    async def requeue_after_a_crash() -> None:
        async with sessions() as session:
            running = await session.scalars(select(job_class.id).where(job_class.state == "running"))
        await expire(sessions, job_class, *running)
        await requeue(sessions, job_class)

    suspects = [await enqueued(sessions, job_class) for _ in range(3)]
    for _ in range(2):
        assert await start(*suspects) == suspects
        await requeue_after_a_crash()
    fresh = await enqueued(sessions, job_class)
    assert await count_triggers(sessions) == 3 + 3 + 1 + 1, "one trigger for all suspects together"
    assert await start(*suspects, fresh) == [suspects[0], fresh], "whatever triggers are delivered"
    await requeue(sessions, job_class)
    assert await count_triggers(sessions) == 8, "no second suspect while the first runs"
    await requeue_after_a_crash()
    job = await read_job(sessions, job_class, fresh)
    assert (job.state, job.triggers) == ("queued", 1), "a job that lost one attempt only need not wait"
    assert await count_triggers(sessions) == 10


async def test_unfinished_jobs_are_counted_with_the_age_of_the_oldest(
    sessions: Sessions, job_class: type[JobColumns]
) -> None:
    async def measured() -> list[float | None]:
        await requeue(sessions, job_class)
        names = ("rostrum_jobs", "rostrum_jobs_oldest_seconds")
        states = ("queued", "running")
        labels = [{"actor": ACTOR, "state": state} for state in states]
        return [REGISTRY.get_sample_value(name, each) for each in labels for name in names]

    assert await measured() == [0, 0, 0, 0]
    oldest_job, running_job, _ = [await enqueued(sessions, job_class) for _ in range(3)]
    async with sessions.begin() as session:
        table = job_class.__tablename__  # type: ignore[attr-defined]
        await session.execute(
            text(f"UPDATE {table} SET created_at = created_at - interval '1 hour' WHERE id = :id"),
            {"id": oldest_job},
        )
    async with claim(sessions, job_class, running_job):
        queued, oldest, running, began = await measured()
    assert (queued, running) == (2, 1)
    assert oldest is not None
    assert 3600 <= oldest < 3600 + 60
    assert began is not None
    assert began < LEASE.total_seconds()
