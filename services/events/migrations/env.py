from events.models import Base
from events.settings import EventsSettings
from shared.database.migrations import run

run(EventsSettings, Base.metadata)
