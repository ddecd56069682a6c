"""The figures. Each is measured in turns with a baseline, printed, and returns whether it reaches its goal."""

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil
from pydantic import SecretStr

from benchmarks.bus.http_load import seconds_to_post
from benchmarks.bus.messages import amqp_message, fill_outbox, new_envelopes
from benchmarks.bus.roles import CREATE_EFFECTS
from benchmarks.bus.scene import (
    Scene,
    database_of,
    finish,
    lines_of,
    logged,
    put_into,
    sink_of,
    started,
    wait_for_messages,
)
from shared.contracts.events import EventCreatedV1
from shared.database.engine import new_engine
from shared.ids import new_id
from shared.messaging import outbox
from shared.messaging.commit_notifier import notifying_sessions
from shared.messaging.topology import declare_queue
from shared.settings import Settings
from testkit.processes import running

T = TypeVar("T")

MEBIBYTE = 1 << 20

RELAY_ROWS = 10_000
RELAY_GOAL = 0.80

CONSUMED_MESSAGES = 1_200
CONSUMER_GOAL = 0.60

LATENCY_WRITES = 200
LATENCY_P50 = 0.050
LATENCY_P99 = 0.250

BACKLOG_ROWS = 100_000
BACKLOG_GROWTH = 5 * MEBIBYTE

WRITES = 200
WRITE_GOAL = 1.25


@dataclass
class Contender:
    """``rates`` and seconds of processor time per unit, by round."""

    name: str
    unit: str
    rates: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add_round(self, count: int, began: dict[str, Any], ended: dict[str, Any]) -> None:
        self.rates.append(count / (ended["at"] - began["at"]))
        self.processor.append((ended["processor"] - began["processor"]) / count)


async def relay(scene: Scene, *, rounds: int = 6) -> bool:
    """Publish a backlog of the outbox, against a loop that publishes the same messages from memory."""
    bare, ours = Contender("bare loop", "rows"), Contender("relay", "rows")
    log = scene.folder / "publishing.log"

    async def publish_from_memory() -> None:
        await finish(scene.events, log, "bare-publish")
        bare.add_round(RELAY_ROWS, logged(log, "started"), logged(log, "ended"))

    async def publish_from_outbox() -> None:
        async with started(scene.events, log, "relay"), asyncio.timeout(120):
            while await _unpublished(database):  # noqa: ASYNC110 - another process changes it
                await asyncio.sleep(0.1)
            last = await database.fetchval("SELECT extract(epoch FROM max(published_at))::float8 FROM outbox")
        ours.add_round(RELAY_ROWS, logged(log, "started"), {**logged(log, "ended"), "at": last})

    async with database_of(scene.events) as database, sink_of(scene, scene.events) as sink:
        for number in range(rounds):
            await fill_outbox(database, new_envelopes(RELAY_ROWS, aggregates=RELAY_ROWS // 10))
            for publish in _in_turns([publish_from_memory, publish_from_outbox], number):
                await publish()
                await wait_for_messages(scene, sink.name, RELAY_ROWS)
                await sink.purge()
    share = _compare(ours, bare)
    return _judge(share >= RELAY_GOAL, f"relay: {share:.0%} of the bare loop (at least {RELAY_GOAL:.0%})")


async def consumer(scene: Scene, *, rounds: int = 6) -> bool:
    """Handle a backlog of the queue, against a loop with the same effect and no guarantee."""
    queue = await declare_queue(scene.channel, scene.events["SERVICE"], [])
    bare, ours = Contender("bare loop", "messages"), Contender("consumer", "messages")
    roles = [
        (bare, ("bare-consume", queue.name, str(CONSUMED_MESSAGES))),
        (ours, ("consume", str(CONSUMED_MESSAGES))),
    ]
    async with database_of(scene.events) as database:
        await database.execute(CREATE_EFFECTS)
        for number in range(rounds):
            for contender, arguments in _in_turns(roles, number):
                await database.execute("TRUNCATE effects, inbox, inbox_positions")
                await put_into(
                    scene, queue.name, new_envelopes(CONSUMED_MESSAGES, aggregates=CONSUMED_MESSAGES // 4)
                )
                log = scene.folder / "consuming.log"
                await finish(scene.events, log, *arguments)
                contender.add_round(CONSUMED_MESSAGES, logged(log, "began"), logged(log, "ended"))
                await wait_for_messages(scene, queue.name, 0)
                if await database.fetchval("SELECT count(*) FROM effects") != CONSUMED_MESSAGES:
                    raise SystemExit(f"the {contender.name} has not handled every message")
        await database.execute("DROP TABLE effects")
    share = _compare(ours, bare)
    return _judge(share >= CONSUMER_GOAL, f"consumer: {share:.0%} of the bare loop (at least {CONSUMER_GOAL:.0%})")


async def latency(scene: Scene) -> bool:
    """Time from a commit in events to the handler's commit in tickets, with the real messengers of an idle bus.

    The baseline, in turns with it, is published directly and handled by the bare loop.
    """
    settings = Settings(service=scene.events["SERVICE"], database_url=SecretStr(scene.events["DATABASE_URL"]))
    engine = new_engine(settings, "bench")
    bare_log = scene.folder / "bare-consume.log"
    committed: dict[str, float] = {}
    async with (
        notifying_sessions(engine, settings.service) as sessions,
        database_of(scene.events) as database,
        sink_of(scene, scene.events) as sink,
        running("events.messenger", scene.events, scene.folder),
        running("tickets.messenger", scene.tickets, scene.folder) as listener,
        started(scene.events, bare_log, "bare-consume", sink.name, str(LATENCY_WRITES)) as bare,
        asyncio.timeout(120),
    ):
        await database.execute("TRUNCATE outbox")
        await database.execute(CREATE_EFFECTS)
        await _until_logged(bare_log, "ready", 1)
        await _until_logged(listener.log, "consumer.ready", 1)
        for envelope in new_envelopes(LATENCY_WRITES, aggregates=LATENCY_WRITES):
            created = EventCreatedV1.model_validate(
                {**envelope.data.model_dump(), "event_id": new_id(), "version": 1}
            )
            await asyncio.sleep(random.uniform(0.02, 0.06))
            async with sessions.begin() as session:
                message_id = await outbox.add(session, created, subject=created.event_id, seq=1)
            committed[str(message_id)] = time.time()
            await asyncio.sleep(random.uniform(0.02, 0.06))
            committed[str(envelope.id)] = time.time()
            await scene.channel.default_exchange.publish(amqp_message(envelope), sink.name)
        await bare.wait()
        await _until_logged(listener.log, "message.handled", LATENCY_WRITES)
        await database.execute("DROP TABLE effects")
    await engine.dispose()
    bare_p50, bare_p99 = _percentiles(bare_log, committed)
    p50, p99 = _percentiles(listener.log, committed)
    print(f"published directly: p50 {bare_p50 * 1000:.1f} ms, p99 {bare_p99 * 1000:.1f} ms")
    print(f"through the bus:    p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, {LATENCY_WRITES} single writes")
    return _judge(
        p50 <= LATENCY_P50 and p99 <= LATENCY_P99,
        f"latency: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms "
        f"(at most {LATENCY_P50 * 1000:.0f} and {LATENCY_P99 * 1000:.0f})",
    )


async def backlog(scene: Scene) -> bool:
    """Publish 100,000 rows with the real messenger; its memory must not grow."""
    samples: list[tuple[float, int, int]] = []
    async with database_of(scene.events) as database, sink_of(scene, scene.events) as sink:
        await fill_outbox(database, new_envelopes(BACKLOG_ROWS, aggregates=BACKLOG_ROWS // 10))
        async with running("events.messenger", scene.events, scene.folder) as messenger, asyncio.timeout(600):
            process = psutil.Process(messenger.process.pid)
            left = BACKLOG_ROWS
            while left:
                left = await _unpublished(database)
                samples.append((time.monotonic(), left, process.memory_info().rss))
                await asyncio.sleep(0.25)
        await wait_for_messages(scene, sink.name, BACKLOG_ROWS)
    quarters = [
        [sample for sample in samples if upper >= sample[1] >= lower]
        for upper, lower in pairwise(BACKLOG_ROWS * part // 4 for part in (4, 3, 2, 1, 0))
    ]
    memory = [statistics.median(rss for _, _, rss in quarter) for quarter in quarters]
    for number, (quarter, rss) in enumerate(zip(quarters, memory, strict=True), start=1):
        (began, first, _), (ended, last, _) = quarter[0], quarter[-1]
        print(f"quarter {number}: {(first - last) / (ended - began):,.0f} rows/s, {rss / MEBIBYTE:.1f} MB resident")
    rate = BACKLOG_ROWS / (samples[-1][0] - samples[0][0])
    growth = memory[-1] - memory[0]
    return _judge(
        growth <= BACKLOG_GROWTH,
        f"backlog: {BACKLOG_ROWS:,} rows at {rate:,.0f} rows/s, memory {growth / MEBIBYTE:+.1f} MB "
        f"from the first quarter to the last (at most {BACKLOG_GROWTH / MEBIBYTE:+.0f})",
    )


async def writes(scene: Scene, *, rounds: int = 10) -> bool:
    """Call `POST /v1/events` of the real api, against the same api without rows in the outbox."""
    headers = scene.tokens.organizer("bench")
    seconds: dict[str, list[float]] = {"without outbox": [], "with outbox": []}
    async with (
        running("benchmarks.bus.api_without_outbox", scene.events, scene.folder) as without,
        running("events.api", scene.events, scene.folder) as with_outbox,
        database_of(scene.events) as database,
    ):
        contenders = [("without outbox", without, 0), ("with outbox", with_outbox, WRITES)]
        for number in range(-1, rounds):
            for contender, api, rows in _in_turns(contenders, number):
                await database.execute("TRUNCATE outbox")
                bodies = [_new_event(item) for item in range(WRITES)]
                took = await seconds_to_post(f"{api.url}/v1/events", bodies, headers, connections=4)
                if await database.fetchval("SELECT count(*) FROM outbox") != rows:
                    raise SystemExit(f"{contender}: the outbox does not hold {rows} rows")
                if number >= 0:  # the first round is a warm-up
                    seconds[contender].append(took)
    for contender, values in seconds.items():
        milliseconds = [value / WRITES * 1000 for value in values]
        print(f"{contender}: {_spread(milliseconds)} ms a write")
    cost = _median_of_ratios(seconds["with outbox"], seconds["without outbox"])
    return _judge(cost <= WRITE_GOAL, f"writes: {cost:.2f} times the cost without outbox (at most {WRITE_GOAL})")


def _new_event(number: int) -> dict[str, Any]:
    return {
        "name": f"Days of autumn {number}",
        "timezone": "Europe/Berlin",
        "starts_at": "2031-05-01T09:00",
        "ends_at": "2031-05-02T18:00",
    }


async def _unpublished(database: asyncpg.Connection) -> int:
    return int(await database.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL"))


async def _until_logged(log: Path, fact: str, times: int) -> None:
    """Wait without a timeout, which the caller sets."""
    while sum(line["event"] == fact for line in lines_of(log)) < times:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.05)


def _percentiles(log: Path, committed: dict[str, float]) -> tuple[float, float]:
    """Return p50 and p99 of the seconds from each commit to the log line of its message."""
    handled = {
        line["message_id"]: datetime.fromisoformat(line["timestamp"]).astimezone(UTC).timestamp()
        for line in lines_of(log)
        if line["event"] == "message.handled"
    }
    waits = sorted(moment - committed[message_id] for message_id, moment in handled.items())
    if len(waits) != LATENCY_WRITES:
        raise SystemExit(f"{len(waits)} of {LATENCY_WRITES} messages were handled")
    hundredths = statistics.quantiles(waits, n=100, method="inclusive")
    return hundredths[49], hundredths[98]


def _in_turns(contenders: list[T], number: int) -> list[T]:
    """Reverse the contenders in every other round."""
    return contenders[:: 1 if number % 2 else -1]


def _median_of_ratios(ours: list[float], baseline: list[float]) -> float:
    return statistics.median(mine / other for mine, other in zip(ours, baseline, strict=True))


def _compare(ours: Contender, bare: Contender) -> float:
    """Print both; return the share of the baseline's rate."""
    for contender in (bare, ours):
        processor = f"{statistics.median(contender.processor) * 1_000_000:,.0f} µs of processor each"
        print(f"{contender.name}: {_spread(contender.rates)} {contender.unit}/s, {processor}")
    return _median_of_ratios(ours.rates, bare.rates)


def _spread(values: list[float]) -> str:
    digits = 0 if min(values) >= 100 else 2
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _judge(good: bool, sentence: str) -> bool:
    print(f"{'PASS' if good else 'FAIL'}: {sentence}", flush=True)
    return good
