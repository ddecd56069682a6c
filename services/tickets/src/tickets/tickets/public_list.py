"""The list of an event's tickets, as everybody asks for it at the moment sales begin.

Only here PostgreSQL writes the JSON and the route gets the bare request. Rows that become objects, then models,
then text, the work of FastAPI on parameters, and the BEGIN and COMMIT of a session cost several times as much as
the one statement. ``TicketRead`` describes the JSON, and a test compares both.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias, get_args
from uuid import UUID

import asyncpg
from fastapi import Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute

from shared.auth.access import PUBLIC
from shared.database.engine import asyncpg_dsn, connection_settings
from shared.http.etags import etag_headers
from shared.http.pagination import Page
from shared.http.responses import conditional_response
from shared.problems import Invalid, Unavailable
from shared.telemetry.logs import get_logger
from tickets.access import reader_of
from tickets.settings import TicketsSettings
from tickets.tickets.rules import Sales, list_etag
from tickets.tickets.schemas import TicketRead
from tickets.tickets.service import EventNotFound, event_key

log = get_logger(__name__)


# The statement

# `c.now` is the database's clock, the same instant for all rows.
_SALES = (
    "CASE WHEN c.now < t.sales_starts_at THEN 'upcoming'"
    " WHEN c.now < least(t.sales_ends_at, e.ends_at) THEN 'open' ELSE 'past' END"
)


def _money(column: str) -> str:
    return (
        f"""CASE WHEN t.{column} IS NULL THEN 'null'"""
        f""" ELSE '{{"amount_minor":' || t.{column} || ',"currency":"' || t.currency || '"}}' END"""
    )


# Name, form and value of each member. `format` costs half of what `json_build_object` does. What users write goes
# through `to_json`, which escapes it; nothing else can hold a character that needs it. No value may be NULL.
_MEMBERS = (
    ("id", '"%s"', "t.id"),
    ("event_id", '"%s"', "t.event_id"),
    ("name", "%s", "to_json(t.name)"),
    ("description", "%s", "to_json(t.description)"),
    ("type", '"%s"', "t.type"),
    ("price", "%s", _money("price_minor")),
    ("min_price", "%s", _money("min_price_minor")),
    ("max_price", "%s", _money("max_price_minor")),
    ("quantity", "%s", "t.quantity"),
    ("min_per_order", "%s", "t.min_per_order"),
    ("max_per_order", "%s", "t.max_per_order"),
    ("is_hidden", "%s", "t.is_hidden::text"),
    ("position", "%s", "t.position"),
    ("sales_starts_at", '"%s"', "t.sales_starts_text"),
    ("sales_ends_at", '"%s"', "t.sales_ends_text"),
    ("sales", '"%s"', _SALES),
    ("version", "%s", "t.version"),
)
_TICKET = (
    "format('{"
    + ",".join(f'"{name}":{form}' for name, form, _ in _MEMBERS)
    + "}', "
    + ", ".join(value for *_, value in _MEMBERS)
    + ")"
)

# $1 the event, $2 the reader's organizer or NULL, $3 a state of sales or NULL, $4 an instant in place of now.
_LIST = f"""
SELECT e.list_version AS version,
       coalesce(sum((t.sales_starts_at <= c.now)::int
           + (least(t.sales_ends_at, e.ends_at) <= c.now)::int), 0) AS edges,
       coalesce(e.organizer = $2, false) AS is_own,
       coalesce(string_agg({_TICKET}, ',' ORDER BY t.position)
           FILTER (WHERE t.id IS NOT NULL AND ($3::text IS NULL OR $3 = {_SALES})), '') AS tickets
FROM event_copies e
CROSS JOIN (SELECT coalesce($4::timestamptz, statement_timestamp()) AS now) c
LEFT JOIN tickets t ON t.event_id = e.event_id AND (NOT t.is_hidden OR e.organizer = $2)
WHERE e.%s = $1 AND (e.state = 'published' OR e.organizer = $2)
GROUP BY e.event_id, c.now
"""  # noqa: S608 - put together from constants
_LIST_BY_ID = _LIST.replace("e.%s", "e.event_id")
_LIST_BY_IDENTIFIER = _LIST.replace("e.%s", "e.identifier")


class Connection(Protocol):
    """An asyncpg connection or pool."""

    async def fetchrow(self, query: str, *args: object) -> Any: ...


@dataclass(frozen=True, slots=True)
class TicketList:
    """``json`` holds the tickets separated by commas, without brackets."""

    etag: str
    json: str


async def read_list(
    connection: Connection,
    event: UUID | str,
    reader: str | None = None,
    sales: str | None = None,
    *,
    now: datetime | None = None,
) -> TicketList | None:
    """Return the tickets that ``reader`` may see, in one round trip; ``None`` if the event is not visible either.

    ``now`` stands in for the database's clock, in tests.
    """
    query = _LIST_BY_ID if isinstance(event, UUID) else _LIST_BY_IDENTIFIER
    row = await connection.fetchrow(query, event, reader, sales, now)
    if row is None:
        return None
    return TicketList(list_etag(row["version"], row["edges"], is_own=row["is_own"]), row["tickets"])


# Shared reads

_Key: TypeAlias = tuple[UUID | str, str | None, str | None]
_Read: TypeAlias = asyncio.Task[TicketList | None]

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
    """Read each list with one statement at a time, for all callers that wait for it.

    Callers that arrive during a read share the next one. So no answer is older than its question, as it would be
    from a cache, however many ask.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._current: dict[_Key, _Read] = {}
        self._next: dict[_Key, _Read] = {}

    def is_idle(self) -> bool:
        """Return whether no read is in progress."""
        return not self._current and not self._next

    async def read(self, event: UUID | str, reader: str | None, sales: str | None) -> TicketList | None:
        """See ``read_list``. Raises ``ListUnavailable``."""
        key = (event, reader, sales)
        read = self._next.get(key)
        if read is None:
            before = self._current.get(key)
            read = asyncio.create_task(self._read(key, after=before))
            (self._current if before is None else self._next)[key] = read
        return await asyncio.shield(read)  # a caller that is cancelled must not cancel the others

    async def _read(self, key: _Key, *, after: _Read | None) -> TicketList | None:
        if after is not None:
            await asyncio.wait([after])
        try:
            return await read_list(self._connection, *key)
        except _PASSING as error:
            log.error("tickets.list_failed", error_type=type(error).__name__, error=str(error))
            raise ListUnavailable from error
        finally:
            waiting = self._next.pop(key, None)
            if waiting is None:
                del self._current[key]
            else:
                self._current[key] = waiting


@asynccontextmanager
async def open_pool(settings: TicketsSettings) -> AsyncIterator[asyncpg.Pool]:
    """Open a pool of the driver itself.

    Its statements leave nothing behind, so the round trip that resets a connection is saved. Generic plans save
    planning each time.
    """

    async def keep_as_it_is(_: asyncpg.Connection) -> None:
        pass

    async with asyncpg.create_pool(
        asyncpg_dsn(settings.database_url.get_secret_value()),
        min_size=0,
        max_size=settings.database_pool_size,
        reset=keep_as_it_is,
        timeout=5,
        server_settings={**connection_settings(settings, "api"), "plan_cache_mode": "force_generic_plan"},
    ) as pool:
        yield pool


# The route


class RawRoute(APIRoute):
    """A route whose function gets the request and nothing else. Its declarations are for the docs alone."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


class UnknownSalesState(Invalid):
    def __init__(self, sales: str) -> None:
        super().__init__(
            f"sales is {sales[:100]!r}. It must be one of {', '.join(get_args(Sales))}. Leave it out to get all.",
            field="query.sales",
        )


def _lists_of(request: Request) -> TicketLists:
    lists: TicketLists = request.app.state.ticket_lists
    return lists


async def list_tickets(request: Request) -> Response:
    """Return all tickets in one answer, by position. Those of a published event are public, except hidden ones. Its
    organizer also sees hidden ones, and the tickets of drafts."""
    event = event_key(request.path_params["event_ref"])
    sales = request.query_params.get("sales")
    if sales is not None and sales not in get_args(Sales):
        raise UnknownSalesState(sales)
    reader = await reader_of(await PUBLIC(request))
    found = await _lists_of(request).read(event, reader, sales)
    if found is None:
        raise EventNotFound
    return conditional_response(
        request.headers.get("If-None-Match"),
        f'{{"items":[{found.json}],"next_cursor":null}}',
        etag_headers(found.etag),
    )


def add_list(app: FastAPI) -> None:
    """Add the route to the application itself, and first: FastAPI matches the routes of routers twice."""
    app.router.add_api_route(
        "/v1/events/{event_ref}/tickets",
        list_tickets,
        methods=["GET"],
        route_class_override=RawRoute,
        dependencies=[Depends(PUBLIC)],
        response_model=Page[TicketRead],
        summary="List an event's tickets",
        tags=["tickets"],
        openapi_extra={
            "parameters": [
                {
                    "in": "path",
                    "name": "event_ref",
                    "required": True,
                    "schema": {"type": "string"},
                    "description": "The event's `id` or its `identifier`.",
                },
                {
                    "in": "query",
                    "name": "sales",
                    "schema": {"type": "string", "enum": [*get_args(Sales)]},
                    "description": "Only tickets in this state now.",
                },
                {
                    "in": "header",
                    "name": "If-None-Match",
                    "schema": {"type": "string"},
                    "description": "A known `ETag`; the answer is 304 while it is current.",
                },
            ]
        },
    )
    app.router.routes.insert(0, app.router.routes.pop())
