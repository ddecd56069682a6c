"""What the bus costs: relay and consumer against bare loops, how long a message takes, a long backlog, a write.

    make bench ARGS=bus
    python -m deploy.local.testservers run --only database --only broker -- python -m benchmarks.bus [FIGURE …]

Each contender runs in a process of its own on the same servers and the same kind of event loop, in turns. The
servers are throw-away ones without durability of the database, so that its disk is not what is measured; RabbitMQ
syncs for both sides alike.

Passes, with exit code 0, when the relay publishes ≥ 80 % of what a loop over messages in memory does; the
consumer handles ≥ 60 % of what a loop does that consumes, commits and acks; an idle bus takes ≤ 50 ms (p50) and
≤ 250 ms (p99) from commit to handled; 100,000 rows leave with flat memory; and a write with its row costs ≤ 1.25
times one without.
"""

import asyncio
import time
from collections.abc import Sequence

from benchmarks.bus import figures
from benchmarks.bus.scene import set_scene

FIGURES = {
    "relay": figures.relay,
    "consumer": figures.consumer,
    "latency": figures.latency,
    "backlog": figures.backlog,
    "writes": figures.writes,
}


def main(chosen: Sequence[str] = ()) -> int:
    return asyncio.run(_measure(chosen or list(FIGURES)))


async def _measure(chosen: Sequence[str]) -> int:
    results = []
    async with set_scene() as scene:
        for name in chosen:
            print(f"{name}: {(FIGURES[name].__doc__ or '').splitlines()[0]}", flush=True)
            began = time.monotonic()
            results.append(await FIGURES[name](scene))
            print(f"({time.monotonic() - began:.0f} s)\n", flush=True)
    return 0 if all(results) else 1
