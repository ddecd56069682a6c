from shared.database.migrations import run
from tickets.models import Base
from tickets.settings import TicketsSettings

run(TicketsSettings, Base.metadata)
