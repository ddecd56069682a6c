"""Progress of one step of a job, as its task reports it."""

import time

from shared.jobs.attempts import Run

WRITE_SECONDS = 0.25


class Step:
    """Count the items of one step, and write the count at most every ``WRITE_SECONDS``."""

    def __init__(self, run: Run, name: str, total: int) -> None:
        self._run = run
        self._name = name
        self._total = total
        self._written_at = time.monotonic()

    async def start(self) -> None:
        await self.reached(0)

    async def reached(self, done: int) -> None:
        """Report the number of finished items. Raise ``JobLost``."""
        if 0 < done < self._total and time.monotonic() - self._written_at < WRITE_SECONDS:
            return
        self._written_at = time.monotonic()
        await self._run.progress(self._name, done, self._total)
