"""The api: serves HTTP."""

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
from shared.http.docs import docs_router
from shared.http.server import run_api

DESCRIPTION = """\
Events, their programme and their schedule, correct in the event's own time zone.

Send a time as the clock at the venue shows it (`2027-10-30T09:00`, in the event's zone), with an offset, or with
the zone in brackets. A local time that does not exist or is ambiguous is refused with the alternatives. Responses
use the offset of the event's zone. Everybody can read published events; only their organizer can read drafts.
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
            docs_router(("events", "tickets", "media", "exports")),
        ],
        title="Rostrum events",
        description=DESCRIPTION,
    )


if __name__ == "__main__":
    settings = EventsSettings()
    run_api(create_app(settings), settings)
