from shared.settings import Settings


class TicketsSettings(Settings):
    """The tickets service keeps no files and calls nobody."""

    service: str = "tickets"
