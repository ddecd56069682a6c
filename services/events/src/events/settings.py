from shared.settings import Settings


class EventsSettings(Settings):
    """The events service keeps no files and calls nobody."""

    service: str = "events"
