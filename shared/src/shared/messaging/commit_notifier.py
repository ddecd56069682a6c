"""Wake the messenger after a commit that wrote to the outbox, so that the message need not wait for a poll."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from shared.database.engine import Sessions, new_sessions
from shared.telemetry.logs import get_logger

log = get_logger(__name__)


class CommitNotifier:
    """Send at most one NOTIFY per ``QUIET`` seconds, outside of transactions.

    PostgreSQL serialises the commits of transactions that notify.
    """

    QUIET = 0.02

    def __init__(self, engine: AsyncEngine, service: str) -> None:
        self._engine = engine
        self._channel = channel_name(service)
        self._committed = asyncio.Event()

    def notify(self) -> None:
        self._committed.set()

    async def run(self) -> None:
        while True:
            await self._committed.wait()
            self._committed.clear()
            try:
                async with self._engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.execute(text(f"NOTIFY {self._channel}"))
            except Exception as error:
                # The messenger polls as well, so a lost notification only delays a message.
                log.warning("outbox.notify_failed", error=str(error))
            await asyncio.sleep(self.QUIET)


@asynccontextmanager
async def notifying_sessions(engine: AsyncEngine, service: str) -> AsyncIterator[Sessions]:
    """Yield the sessions of a process, whose commits wake the messenger if they wrote to the outbox."""
    notifier = CommitNotifier(engine, service)
    sessions = new_sessions(engine)
    sessions.configure(info={"commit_notifier": notifier})
    running = asyncio.create_task(notifier.run())
    try:
        yield sessions
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def channel_name(service: str) -> str:
    return f"outbox_{service}"


@event.listens_for(Session, "after_commit")
def _notify_after_commit(session: Session) -> None:
    if session.info.pop("outbox_written", False):
        notifier: CommitNotifier | None = session.info.get("commit_notifier")
        if notifier is not None:
            notifier.notify()


@event.listens_for(Session, "after_rollback")
def _forget_after_rollback(session: Session) -> None:
    session.info.pop("outbox_written", None)
