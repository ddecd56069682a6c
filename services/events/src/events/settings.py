from shared.settings import Settings


class EventsSettings(Settings):
    """The events service stores no files and calls no other service."""

    service: str = "events"
