"""Role 1: the HTTP interface."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI

from shared.database.engine import asyncpg_dsn, connection_settings
from shared.http.app import new_app
from shared.http.server import run_api
from tickets.settings import TicketsSettings
from tickets.tickets import router as tickets
from tickets.tickets.lists import TicketLists


def create_app(settings: TicketsSettings) -> FastAPI:
    app = new_app(
        settings,
        routers=[tickets.router, tickets.internal],
        title="Rostrum tickets",
        description="Types of ticket, when they are sold and in which order they are shown.",
        resources=_resources,
    )
    tickets.add_list(app)
    return app


@asynccontextmanager
async def _resources(app: FastAPI) -> AsyncIterator[None]:
    """``app.state.ticket_lists``, on a pool of the driver itself.

    A session costs three round trips for one statement (BEGIN, it, COMMIT) and more processor time than the rest
    of the answer. The statements of this pool leave nothing behind, so the round trip that resets a connection is
    saved as well; generic plans save planning each time.
    """
    settings: TicketsSettings = app.state.settings
    async with asyncpg.create_pool(
        asyncpg_dsn(settings.database_url.get_secret_value()),
        min_size=0,
        max_size=settings.database_pool_size,
        reset=_nothing_to_reset,
        timeout=5,
        server_settings={**connection_settings(settings, "api"), "plan_cache_mode": "force_generic_plan"},
    ) as pool:
        app.state.ticket_lists = TicketLists(pool)
        yield


async def _nothing_to_reset(_: asyncpg.Connection) -> None:
    pass


if __name__ == "__main__":
    settings = TicketsSettings()
    run_api(create_app(settings), settings)
