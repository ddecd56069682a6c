from events.models import Base
from events.settings import EventsSettings
from shared.migrations import run

run(EventsSettings, Base.metadata)
