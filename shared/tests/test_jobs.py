import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import aio_pika
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database.engine import Sessions
from shared.jobs import attempts, rows
from shared.jobs.attempts import Run, claim
from shared.jobs.requeue import requeue_lost_jobs
from shared.jobs.rows import JobColumns, enqueue
from shared.messaging.job_queues import declare_job_queue
from shared.messaging.relay import Relay
from shared.messaging.tables import OUTBOX
from shared.problems import Invalid, Unavailable
from shared.settings import Settings

ACTOR = "probe.paint"


async def enqueued(sessions: Sessions, job_class: type[JobColumns], queue: str = "probe.jobs") -> UUID:
    async with sessions.begin() as session:
        job = job_class()
        await enqueue(session, job, actor=ACTOR, queue=queue)
    return job.id


async def read(sessions: Sessions, job_class: type[JobColumns], job_id: UUID) -> Any:
    async with sessions() as session:
        return await session.get_one(job_class, job_id)


async def lose_the_lease(sessions: Sessions, job_class: type[JobColumns], job_id: UUID) -> None:
    """What the clock does to a job whose worker was killed."""
    past = func.clock_timestamp() - timedelta(minutes=10)
    async with sessions.begin() as session:
        await session.execute(
            update(job_class).where(job_class.id == job_id).values(lease_until=past, hinted_at=past)
        )


async def hints(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(OUTBOX).where(OUTBOX.c.kind == "job")) or 0


async def test_a_job_and_its_hint_are_committed_together(
    engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    async with sessions() as session:
        await enqueue(session, job_class(), actor=ACTOR, queue="probe.jobs")
        await session.rollback()
    assert await hints(sessions) == 0
    await enqueued(sessions, job_class)
    assert await hints(sessions) == 1


async def test_of_two_starts_of_one_job_only_one_gets_it(
    engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id) as first, claim(sessions, job_class, job_id) as second:
        assert first is not None
        assert second is None
        async with sessions.begin() as session:
            await first.finish(session)
    async with claim(sessions, job_class, job_id) as third:
        assert third is None
    job = await read(sessions, job_class, job_id)
    assert (job.state, job.attempts) == ("done", 1)
    assert job.finished_at is not None


async def test_an_attempt_is_counted_before_its_work_begins(
    engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id) as run:
        assert run is not None
        assert (await read(sessions, job_class, job_id)).attempts == 1


async def test_an_attempt_that_lost_its_lease_can_not_write_any_more(
    engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id) as slow:
        assert slow is not None
        await lose_the_lease(sessions, job_class, job_id)
        await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue="probe.jobs")
        async with claim(sessions, job_class, job_id) as quick:
            assert quick is not None
            await quick.progress("painting", 1, 2)
            with pytest.raises(attempts.JobLost):
                await slow.progress("painting", 2, 2)
            async with sessions.begin() as session:
                await quick.finish(session)
    job = await read(sessions, job_class, job_id)
    assert (job.state, job.done, job.attempts) == ("done", 1, 2)


async def test_a_refusal_fails_the_job_with_its_problem_document(
    engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id):
        raise Invalid("The wall is wet.", field="wall")
    job = await read(sessions, job_class, job_id)
    assert job.state == "failed"
    assert job.error["errors"] == [{"field": "wall", "message": "The wall is wet."}]


async def test_a_part_that_is_down_postpones_the_job_and_counts_no_attempt(
    engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    for _ in range(rows.MAX_ATTEMPTS + 1):
        async with claim(sessions, job_class, job_id) as run:
            assert run is not None
            raise Unavailable("The paint shop is closed.")
    job = await read(sessions, job_class, job_id)
    assert (job.state, job.attempts, job.error) == ("queued", 0, None)
    await lose_the_lease(sessions, job_class, job_id)
    await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue="probe.jobs")
    assert await hints(sessions) == 2


async def test_the_sweep_sends_a_hint_for_a_job_that_a_dead_worker_left_behind(
    engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    async with claim(sessions, job_class, job_id):
        await lose_the_lease(sessions, job_class, job_id)
        await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue="probe.jobs")
        assert await hints(sessions) == 2
        await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue="probe.jobs")
        assert await hints(sessions) == 2, "a second sweep right after must not send one more"


async def test_a_job_that_kills_every_worker_ends_as_failed(
    engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    job_id = await enqueued(sessions, job_class)
    for _ in range(rows.MAX_ATTEMPTS):
        async with claim(sessions, job_class, job_id) as run:
            assert isinstance(run, Run)  # and the process dies here, without a word
        await lose_the_lease(sessions, job_class, job_id)
        async with claim(sessions, job_class, job_id) as run:
            assert run is None, "a hint that RabbitMQ delivers again must not start what the sweep has not put back"
        await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue="probe.jobs")
    job = await read(sessions, job_class, job_id)
    assert (job.state, job.error["code"]) == ("failed", "job-given-up")


async def test_jobs_that_lost_two_attempts_are_tried_again_one_at_a_time(
    engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    async def start(*job_ids: UUID) -> list[UUID]:
        """Those whose attempt has begun, and ends without a word."""
        started = []
        for job_id in job_ids:
            async with claim(sessions, job_class, job_id) as run:
                if run is not None:
                    started.append(job_id)
        return started

    async def sweep_after_a_crash() -> None:
        async with sessions.begin() as session:
            past = func.clock_timestamp() - timedelta(minutes=10)
            await session.execute(update(job_class).where(job_class.state == "running").values(lease_until=past))
        await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue="probe.jobs")

    suspects = [await enqueued(sessions, job_class) for _ in range(3)]
    for _ in range(2):
        assert await start(*suspects) == suspects
        await sweep_after_a_crash()
    fresh = await enqueued(sessions, job_class)
    assert await hints(sessions) == 3 + 3 + 1 + 1, "one hint for all suspects together"
    assert await start(*suspects, fresh) == [suspects[0], fresh], "whatever hints come"
    await requeue_lost_jobs(sessions, job_class, actor=ACTOR, queue="probe.jobs")
    assert await hints(sessions) == 8, "no second suspect while the first runs"
    await sweep_after_a_crash()
    job = await read(sessions, job_class, fresh)
    assert (job.state, job.hints) == ("queued", 1), "who lost one attempt only is not kept waiting"
    assert await hints(sessions) == 10


async def test_the_hint_reaches_the_queue_that_dramatiq_reads_and_makes_it_when_it_is_missing(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    queue_name = f"{settings.service}.jobs"
    job_id = await enqueued(sessions, job_class, queue=queue_name)
    relay = Relay(settings, declare_job_queue=lambda name: declare_job_queue(settings, name))
    stopping = asyncio.Event()
    task = asyncio.create_task(relay.run(stopping))
    connection = await aio_pika.connect(settings.rabbitmq_url.get_secret_value())
    async with connection, asyncio.timeout(20):
        message = None
        while message is None:
            channel = await connection.channel()
            try:
                queue = await channel.get_queue(queue_name)
                message = await queue.get(no_ack=True, fail=False)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                await asyncio.sleep(0.05)
        body = json.loads(message.body)
        stopping.set()
        await task
        for suffix in ("", ".DQ", ".XQ"):
            await (await connection.channel()).queue_delete(queue_name + suffix)
    assert (body["actor_name"], body["args"], body["queue_name"]) == (ACTOR, [str(job_id)], queue_name)
