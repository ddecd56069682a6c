"""The real processes on real servers."""

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import aio_pika
import httpx

from shared.messaging.topology import EXCHANGE, queue_name
from testkit.plugin import TokenFactory
from testkit.processes import running, until


async def test_api_and_messenger_exchange_messages_and_stop_cleanly(
    environment: dict[str, str], tokens: TokenFactory, tmp_path: Path
) -> None:
    event_id = str(uuid4())
    path = f"/v1/events/{event_id}/tickets"
    async with (
        await aio_pika.connect(environment["RABBITMQ_URL"]) as broker,
        running("tickets.api", environment, tmp_path) as api,
        running("tickets.messenger", environment, tmp_path) as messenger,
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(60),
    ):
        channel = await broker.channel()
        bound = await channel.declare_queue(exclusive=True)
        await bound.bind(EXCHANGE, "tickets.ticket.created.v1")
        published = {
            "specversion": "1.0",
            "id": str(uuid4()),
            "source": "/rostrum/events",
            "type": "events.event.published.v1",
            "subject": event_id,
            "time": "2026-11-22T12:00:00Z",
            "aggregatetype": "events.event",
            "aggregateseq": 2,
            "data": {
                "organizer": "acme",
                "event_id": event_id,
                "identifier": "k3x9q0ab",
                "name": "Autumn days",
                "timezone": "Europe/Berlin",
                "starts_at": "2097-10-26T07:00:00Z",
                "ends_at": "2097-10-28T17:00:00Z",
                "state": "published",
                "version": 2,
                "news": "a field that this release does not know",
            },
        }
        queue = queue_name(environment["SERVICE"])
        await until(lambda: _queue_exists(broker, queue))
        for _ in range(2):
            await channel.default_exchange.publish(
                aio_pika.Message(json.dumps(published).encode()), routing_key=queue
            )

        async def is_known() -> bool:
            return (await client.get(path)).status_code == 200

        await until(is_known)
        created = await client.post(path, json={"name": "Regular", "type": "free"})
        assert created.status_code == 201, created.text
        async with bound.iterator() as messages:
            async for message in messages:
                await message.ack()
                sent = json.loads(message.body)
                if sent["subject"] == created.json()["id"]:
                    break
        assert (sent["type"], sent["aggregateseq"]) == ("tickets.ticket.created.v1", 1)
        assert sent["data"]["sales_ends_at"] == "2097-10-28T17:00:00Z"
        listed = await client.get(path, params={"sales": "open"}, headers={"X-Request-ID": "list-1"})
        assert listed.json()["items"] == [created.json()]

        assert await messenger.stop() == 0, messenger.log.read_text()
        assert await api.stop() == 0, api.log.read_text()
    lines = [json.loads(line) for line in api.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "list-1"]
    assert (line["event"], line["route"], line["status"]) == (
        "request.answered",
        "/v1/events/{event_ref}/tickets",
        200,
    )
    assert line["trace_id"]


async def _queue_exists(broker: aio_pika.abc.AbstractConnection, name: str) -> bool:
    channel = await broker.channel()  # a missing queue closes the channel
    try:
        await channel.get_queue(name)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return False
    await channel.close()
    return True
