import asyncio
import json

import aio_pika

from shared.database.engine import Sessions
from shared.jobs.rows import JobColumns
from shared.messaging.relay import Relay
from shared.settings import Settings
from testkit.jobs import ACTOR, enqueued


async def test_the_relay_sends_a_trigger_to_the_queue_that_dramatiq_reads_and_declares_it_if_missing(
    settings: Settings, sessions: Sessions, job_class: type[JobColumns]
) -> None:
    queue_name = f"{settings.service}.jobs"
    job_id = await enqueued(sessions, job_class, queue=queue_name)
    relay = Relay(settings)
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
