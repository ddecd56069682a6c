"""Waiting for what happens in other processes, at a price that leaves them the processor."""

import asyncio
from collections.abc import Awaitable, Callable

EVERY = 0.1


async def within(seconds: float, is_so: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again until it is so. Raises ``TimeoutError``."""
    async with asyncio.timeout(seconds):
        while not await is_so():  # noqa: ASYNC110 - no event of ours tells of it
            await asyncio.sleep(EVERY)
