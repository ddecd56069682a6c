from shared.settings import Settings


class TicketsSettings(Settings):
    """Only what all services have: tickets keeps no files and calls no other service."""

    service: str = "tickets"
