"""Role 1: the HTTP interface."""

from fastapi import FastAPI

from events.settings import EventsSettings
from shared.app import create_app, run_api


def create_events(settings: EventsSettings) -> FastAPI:
    return create_app(
        settings,
        routers=[],
        title="Rostrum events",
        description="",
    )


if __name__ == "__main__":
    settings = EventsSettings()
    run_api(create_events(settings), settings)
