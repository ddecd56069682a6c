"""Waiting for other processes without taking their processor time."""

import asyncio
from collections.abc import Awaitable, Callable

EVERY = 0.1


async def within(seconds: float, is_so: Callable[[], Awaitable[bool]]) -> None:
    """Poll until the condition holds. Raises ``TimeoutError``."""
    async with asyncio.timeout(seconds):
        while not await is_so():  # noqa: ASYNC110 - the condition depends on other processes
            await asyncio.sleep(EVERY)
