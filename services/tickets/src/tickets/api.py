"""Role 1: the HTTP interface."""

from fastapi import FastAPI

from shared.app import create_app, run_api
from tickets.settings import TicketsSettings


def create_tickets(settings: TicketsSettings) -> FastAPI:
    return create_app(
        settings,
        routers=[],
        title="Rostrum tickets",
        description="",
    )


if __name__ == "__main__":
    settings = TicketsSettings()
    run_api(create_tickets(settings), settings)
