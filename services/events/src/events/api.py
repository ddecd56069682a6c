"""Role 1: the HTTP interface."""

from fastapi import FastAPI

from events.catalogue import router as catalogue
from events.events import router as events
from events.interchange import router as interchange
from events.schedule import router as schedule
from events.sessions import router as sessions
from events.settings import EventsSettings
from events.speakers import router as speakers
from events.timezones import router as timezones
from shared.http.app import new_app
from shared.http.server import run_api

DESCRIPTION = """\
Events, their programme and their schedule, right in the event's own time zone.

A time may be sent as the clock at the venue shows it (`2027-10-30T09:00`, read in the event's zone), with an
offset, or with the zone in brackets. A time that the clock skips, or shows twice, is refused with the alternatives.
Answers carry the offset of the event's zone. Published events are open to everybody, drafts to their organizer.
"""


def create_app(settings: EventsSettings) -> FastAPI:
    return new_app(
        settings,
        routers=[
            events.router,
            sessions.router,
            speakers.router,
            catalogue.router,
            schedule.router,
            timezones.router,
            events.internal,
            interchange.internal,
        ],
        title="Rostrum events",
        description=DESCRIPTION,
    )


if __name__ == "__main__":
    settings = EventsSettings()
    run_api(create_app(settings), settings)
