import pytest

from shared.database.engine import Sessions
from shared.jobs.attempts import JobLost, claim, outcome
from shared.jobs.requeue import requeue_lost_jobs
from shared.jobs.rows import MAX_ATTEMPTS, JobColumns, enqueue
from shared.problems import Conflict, Invalid, Unavailable
from testkit.jobs import ACTOR, QUEUE, count_triggers, enqueued, expire, read_job


async def test_a_job_and_its_trigger_are_committed_together(
    sessions: Sessions, job_class: type[JobColumns]
) -> None:
    async with sessions() as session:
        await enqueue(session, job_class(), actor=ACTOR, queue=QUEUE)
        await session.rollback()
    assert await count_triggers(sessions) == 0
    await enqueued(sessions, job_class)
    assert await count_triggers(sessions) == 1


async def test_of_two_starts_of_one_job_only_one_gets_it(sessions: Sessions, job_class: type[JobColumns]) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id) as first, claim(sessions, job_class, job_id) as second:
        assert first is not None
        assert second is None
        async with sessions.begin() as session:
            await first.finish(session)
    async with claim(sessions, job_class, job_id) as third:
        assert third is None
    job = await read_job(sessions, job_class, job_id)
    assert (job.state, job.attempts) == ("done", 1)
    assert job.finished_at is not None


async def test_an_attempt_is_counted_before_its_work_begins(
    sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id) as run:
        assert run is not None
        assert (await read_job(sessions, job_class, job_id)).attempts == 1


async def test_an_attempt_that_lost_its_lease_cannot_write_any_more(
    sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id) as slow:
        assert slow is not None
        await expire(sessions, job_class, job_id)
        await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue=QUEUE)
        async with claim(sessions, job_class, job_id) as quick:
            assert quick is not None
            await quick.progress("painting", 1, 2)
            with pytest.raises(JobLost):
                await slow.progress("painting", 2, 2)
            async with sessions.begin() as session:
                await quick.finish(session)
    job = await read_job(sessions, job_class, job_id)
    assert (job.state, job.done, job.attempts) == ("done", 1, 2)


async def test_a_problem_fails_the_job_with_its_document(sessions: Sessions, job_class: type[JobColumns]) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id):
        raise Invalid("The wall is wet.", field="wall")
    job = await read_job(sessions, job_class, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["errors"] == [{"field": "wall", "message": "The wall is wet."}]


async def test_an_unavailable_dependency_postpones_the_job_and_the_attempt_does_not_count(
    sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    for _ in range(MAX_ATTEMPTS + 1):
        async with claim(sessions, job_class, job_id) as run:
            assert run is not None
            raise Unavailable("The paint shop is closed.")
    job = await read_job(sessions, job_class, job_id)
    assert (job.state, job.attempts, job.error) == ("queued", 0, None)
    await expire(sessions, job_class, job_id)
    await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue=QUEUE)
    assert await count_triggers(sessions) == 2


async def test_an_attempt_reports_its_outcome(sessions: Sessions, job_class: type[JobColumns]) -> None:
    async def outcome_of(problem: Exception | None) -> str:
        job_id = await enqueued(sessions, job_class)
        async with claim(sessions, job_class, job_id) as run:
            assert run is not None
            async with sessions.begin() as session:
                if problem:
                    raise problem
                await run.finish(session)
        return outcome.get()

    assert await outcome_of(None) == "done"
    assert await outcome_of(Conflict("The wall is wet.")) == "failed"
    assert await outcome_of(Unavailable("The paint shop is closed.")) == "postponed"
