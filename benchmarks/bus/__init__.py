"""Measure the bus: relay and consumer against bare loops, latency, a long backlog, a write (see README.md).

Contenders are separate processes on the same servers and the same kind of event loop, in turns. The temporary
database is not durable, so that its disk is not measured; RabbitMQ syncs for both sides. The exit code is 0 if
every figure reaches its goal, a constant in ``figures``.
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
