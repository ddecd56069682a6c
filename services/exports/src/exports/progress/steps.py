"""Progress of one step of a job, as its task reports it."""

import time

from shared.jobs.attempts import Run

WRITE_SECONDS = 0.25


class Step:
    """Counts the items of one step and writes the count a few times a second, not for each item."""

    def __init__(self, run: Run, name: str, total: int) -> None:
        self._run = run
        self._name = name
        self._total = total
        self._written_at = time.monotonic()

    async def start(self) -> None:
        await self.reached(0)

    async def reached(self, done: int) -> None:
        """Raises ``JobLost``."""
        if 0 < done < self._total and time.monotonic() - self._written_at < WRITE_SECONDS:
            return
        self._written_at = time.monotonic()
        await self._run.progress(self._name, done, self._total)
