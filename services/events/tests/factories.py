"""What tests of the events service make: events, programmes, images. Fixtures of these types are in conftest."""

from typing import Any, Protocol
from uuid import UUID

from shared.contracts.programme import Programme


class CreateEvent(Protocol):
    """Create an event in Berlin through the API; ``fields`` override those of the request. Return the response."""

    async def __call__(self, org: str = "acme", *, publish: bool = False, **fields: Any) -> dict[str, Any]: ...


class ImportProgramme(Protocol):
    """Import a programme as the exports service does. Return the event's id."""

    async def __call__(self, programme: Programme, org: str = "acme") -> UUID: ...


class ExportProgramme(Protocol):
    """Export an event's programme as the exports service does."""

    async def __call__(self, event_id: UUID | str, org: str = "acme") -> Programme: ...


def programme_of_size(sessions: int, speakers: int = 0) -> Programme:
    zone = {"timezone": "Asia/Singapore", "starts_at": "2027-03-18T09:30:00+08:00"}
    return Programme.model_validate(
        {
            "event": {
                "key": "1",
                "name": "Big",
                **zone,
                "ends_at": "2027-03-20T17:30:00+08:00",
                "state": "published",
            },
            "tracks": [{"key": f"t{n}", "name": f"Track {n}"} for n in range(18)],
            "microlocations": [{"key": f"m{n}", "name": f"Room {n}"} for n in range(17)],
            "speakers": [
                {"key": f"p{n}", "name": f"Speaker {n}", "long_biography": "Talks. " * 200} for n in range(speakers)
            ],
            "sessions": [
                {
                    "key": f"s{n}",
                    "title": f"Session {n}",
                    "state": "accepted",
                    "long_abstract": "About. " * 150,
                    "starts_at": f"2027-03-18T{9 + n % 8:02}:00:00+08:00",
                    "ends_at": f"2027-03-18T{9 + n % 8:02}:45:00+08:00",
                    "track": f"t{n % 18}",
                    "microlocation": f"m{n % 17}",
                    "speakers": [f"p{n % speakers}", f"p{(n + 1) % speakers}"] if speakers > 1 else [],
                }
                for n in range(sessions)
            ],
        }
    )
