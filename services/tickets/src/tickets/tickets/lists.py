"""The list of an event's tickets for everybody: what must bear the crowd at the moment sales begin."""

import asyncio
from typing import TypeAlias
from uuid import UUID

import asyncpg

from shared.problems import Unavailable
from shared.telemetry.logs import get_logger
from tickets.tickets import repository
from tickets.tickets.repository import Connection, ShownTickets

log = get_logger(__name__)

_Key: TypeAlias = tuple[UUID | str, str | None, str | None]
_Reading: TypeAlias = asyncio.Task[ShownTickets | None]

_PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,  # statement timeout, shutdown
    asyncpg.InsufficientResourcesError,  # too many connections
    OSError,
    TimeoutError,
)


class ListUnavailable(Unavailable):
    def __init__(self) -> None:
        super().__init__("The database did not answer in time. Try again.", headers={"Retry-After": "2"})


class TicketLists:
    """Reads a list with one statement, in one round trip, for everybody who is waiting for it.

    Who asks while the same list is being read waits for the next reading, together with all others who do. So a
    crowd costs the database no more than one statement at a time for each list, and yet no answer is older than its
    question, as it would be from a cache.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._now: dict[_Key, _Reading] = {}
        self._next: dict[_Key, _Reading] = {}

    async def read(self, event: UUID | str, reader: str | None, sales: str | None) -> ShownTickets | None:
        """See ``repository.list_on``. Raises ``ListUnavailable``."""
        key = (event, reader, sales)
        reading = self._next.get(key)
        if reading is None:
            before = self._now.get(key)
            reading = asyncio.create_task(self._read(key, after=before))
            (self._now if before is None else self._next)[key] = reading
        return await asyncio.shield(reading)  # one who leaves does not take the others' answer along

    async def _read(self, key: _Key, *, after: _Reading | None) -> ShownTickets | None:
        if after is not None:
            await asyncio.wait([after])
        try:
            return await repository.list_on(self._connection, *key)
        except _PASSING as error:
            log.error("tickets.list_failed", error_type=type(error).__name__, error=str(error))
            raise ListUnavailable from error
        finally:
            waiting = self._next.pop(key, None)
            if waiting is None:
                del self._now[key]
            else:
                self._now[key] = waiting
