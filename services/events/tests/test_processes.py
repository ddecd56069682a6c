"""The real processes on real servers: they start, serve, carry messages both ways and stop cleanly."""

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import aio_pika
import httpx

from shared.messaging.topology import EXCHANGE, queue_name
from testkit.plugin import TokenFactory
from testkit.processes import running, until


async def test_api_and_messenger_serve_requests_and_messages_and_stop_cleanly(
    environment: dict[str, str], tokens: TokenFactory, tmp_path: Path
) -> None:
    async with (
        await aio_pika.connect(environment["RABBITMQ_URL"]) as broker,
        running("events.api", environment, tmp_path) as api,
        running("events.messenger", environment, tmp_path) as messenger,
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(60),
    ):
        channel = await broker.channel()
        listening = await channel.declare_queue(exclusive=True)
        await listening.bind(EXCHANGE, "events.event.created.v1")

        image_id = str(uuid4())
        body = {
            "name": "Autumn days",
            "timezone": "Europe/Berlin",
            "starts_at": "2027-10-30T09:00",
            "ends_at": "2027-10-31T18:00",
            "image_id": image_id,
        }
        created = await client.post("/v1/events", json=body)
        assert created.status_code == 201, created.text
        async with listening.iterator() as messages:
            async for message in messages:
                await message.ack()
                sent = json.loads(message.body)
                if sent["subject"] == created.json()["id"]:
                    break
        assert (sent["type"], sent["aggregateseq"]) == ("events.event.created.v1", 1)
        assert sent["data"]["starts_at"] == "2027-10-30T07:00:00Z"

        processed = {
            "specversion": "1.0",
            "id": str(uuid4()),
            "source": "/rostrum/media",
            "type": "media.image.processed.v1",
            "subject": image_id,
            "time": "2026-11-22T12:00:00Z",
            "aggregatetype": "media.image",
            "aggregateseq": 1,
            "data": {
                "organizer": "acme",
                "image_id": image_id,
                "kind": "event",
                "variants": [
                    {"name": "large", "path": "/v1/images/x/large.jpg", "width": 1, "height": 1, "size": 1}
                ],
            },
        }
        queue = queue_name(environment["SERVICE"])
        await until(lambda: _queue_exists(broker, queue))
        for _ in range(2):
            await channel.default_exchange.publish(
                aio_pika.Message(json.dumps(processed).encode()), routing_key=queue
            )

        async def has_images() -> bool:
            event = (await client.get(created.headers["Location"])).json()
            return bool(event["images"] == {"large": "http://gateway.test/v1/images/x/large.jpg"})

        await until(has_images)

        assert await messenger.stop() == 0, messenger.log.read_text()
        assert await api.stop() == 0, api.log.read_text()


async def test_api_drains_after_the_first_signal_and_stops_at_the_second(
    environment: dict[str, str], tokens: TokenFactory, tmp_path: Path
) -> None:
    async with (
        running("events.api", environment | {"DRAIN_DELAY": "60"}, tmp_path) as api,
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(30),
    ):
        before = await client.get("/v1/events")
        assert before.headers.get("connection") != "close"
        api.process.terminate()

        async def is_not_ready() -> bool:
            return (await client.get("/healthz/ready")).status_code == 503

        await until(is_not_ready)
        assert (await client.get("/healthz/live")).status_code == 200
        for _ in range(3):  # each on a connection of its own
            answer = await client.get("/v1/events")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        api.process.terminate()
        assert await api.process.wait() == 0, api.log.read_text()


async def _queue_exists(broker: aio_pika.abc.AbstractConnection, name: str) -> bool:
    channel = await broker.channel()  # a missing queue closes the channel
    try:
        await channel.get_queue(name)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return False
    await channel.close()
    return True
