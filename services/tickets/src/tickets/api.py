"""Role 1: the HTTP interface."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from shared.http.app import new_app
from shared.http.server import run_api
from tickets.settings import TicketsSettings
from tickets.tickets import router as tickets
from tickets.tickets.public_list import TicketLists, add_list, open_pool


def create_app(settings: TicketsSettings) -> FastAPI:
    @asynccontextmanager
    async def with_lists(app: FastAPI) -> AsyncIterator[None]:
        async with open_pool(settings) as pool:
            app.state.ticket_lists = TicketLists(pool)
            yield

    app = new_app(
        settings,
        routers=[tickets.router, tickets.internal],
        title="Rostrum tickets",
        description="Types of ticket, their sales windows and their positions in the list.",
        resources=with_lists,
    )
    add_list(app)
    return app


if __name__ == "__main__":
    settings = TicketsSettings()
    run_api(create_app(settings), settings)
