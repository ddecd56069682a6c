from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from events.api import create_app
from events.settings import EventsSettings
from services.events.tests.factories import CreateEvent, ExportProgramme, ImportProgramme
from shared.contracts.programme import Programme
from shared.ids import new_id
from testkit.plugin import ServiceUnderTest, TokenFactory


@pytest.fixture
def service() -> ServiceUnderTest:
    return ServiceUnderTest(EventsSettings, create_app, Path(__file__).parents[1])


@pytest.fixture
def create_event(client: httpx.AsyncClient, tokens: TokenFactory) -> CreateEvent:
    async def create(org: str = "acme", *, publish: bool = False, **fields: Any) -> dict[str, Any]:
        body = {
            "name": "Autumn days",
            "timezone": "Europe/Berlin",
            "starts_at": "2027-10-30T09:00",
            "ends_at": "2027-10-31T18:00",
            **fields,
        }
        answer = await client.post("/v1/events", json=body, headers=tokens.organizer(org))
        assert answer.status_code == 201, answer.text
        event: dict[str, Any] = answer.json()
        if publish:
            answer = await client.post(f"/v1/events/{event['id']}/publish", headers=tokens.organizer(org))
            assert answer.status_code == 200, answer.text
        return event

    return create


@pytest.fixture
def import_programme(client: httpx.AsyncClient, tokens: TokenFactory) -> ImportProgramme:
    async def import_(programme: Programme, org: str = "acme") -> UUID:
        body = {"import_id": str(new_id()), "organizer": org, "programme": programme.model_dump(mode="json")}
        answer = await client.post("/internal/programmes", json=body, headers=tokens.service("exports"))
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["event_id"])

    return import_


@pytest.fixture
def export_programme(client: httpx.AsyncClient, tokens: TokenFactory) -> ExportProgramme:
    async def export(event_id: UUID | str, org: str = "acme") -> Programme:
        path = f"/internal/programmes/{event_id}"
        answer = await client.get(path, params={"organizer": org}, headers=tokens.service("exports"))
        assert answer.status_code == 200, answer.text
        return Programme.model_validate(answer.json())

    return export


@pytest.fixture
def programme() -> Programme:
    """A programme with one of everything and more, across the night in which Berlin's clocks are set back."""
    return Programme.model_validate(
        {
            "event": {
                "key": "6",
                "name": "Autumn days",
                "timezone": "Europe/Berlin",
                "starts_at": "2027-10-30T09:00:00+02:00",
                "ends_at": "2027-10-31T18:00:00+01:00",
                "state": "Published",
                "privacy": "public",
                "latitude": 52.5,
                "online": False,
                "image": {"path": "images/large.png", "image_id": "0192f0c1-2345-7abc-8def-0123456789ab"},
                "logo": {"url": "https://example.org/logo.png"},
                "extra": {"has_session_speakers": True, "version": {"event_ver": 3}},
            },
            "social_links": [{"key": "1", "name": "Mastodon", "link": "https://example.org/@autumn"}],
            "tracks": [
                {"key": "10", "name": "Main", "color": "#aabbcc", "position": 2, "extra": {"font_color": "#000"}},
                {"key": "11", "name": "Side"},
            ],
            "microlocations": [{"key": "20", "name": "Hall", "floor": -1, "latitude": 1.5, "longitude": -2.0}],
            "session_types": [{"key": "30", "name": "Talk", "length": "00:45"}],
            "speakers": [
                {"key": "40", "name": "Ada", "email": "ada@example.org", "mobile": "+49 30 1"},
                {"key": "41", "name": "Béla", "photo": {"path": "images/béla.jpg"}, "is_featured": True},
                {"key": "42", "name": "Rejected only", "email": "secret@example.org"},
                {"key": "43", "name": "Without sessions"},
            ],
            "sponsors": [{"key": "50", "name": "Bakery", "level": "1", "logo": {"path": "images/b.png"}}],
            "sessions": [
                {
                    "key": "104",
                    "title": "After the change",
                    "state": "confirmed",
                    "starts_at": "2027-10-31T02:30:00+01:00",
                    "ends_at": "2027-10-31T03:15:00+01:00",
                    "microlocation": "20",
                },
                {
                    "key": "101",
                    "title": "Opening",
                    "state": "accepted",
                    "comments": "Needs two microphones",
                    "starts_at": "2027-10-30T09:00:00+02:00",
                    "ends_at": "2027-10-30T10:00:00+02:00",
                    "track": "10",
                    "microlocation": "20",
                    "session_type": "30",
                    "speakers": ["41", "40"],
                    "extra": {"is_mail_sent": True, "feedbacks": [{"rating": 4.5}]},
                },
                {
                    "key": "103",
                    "title": "Before the change",
                    "state": "accepted",
                    "starts_at": "2027-10-31T02:30:00+02:00",
                    "ends_at": "2027-10-31T02:15:00+01:00",
                    "speakers": ["40"],
                },
                {
                    "key": "105",
                    "title": "Not accepted",
                    "state": "rejected",
                    "starts_at": "2027-10-30T11:00:00+02:00",
                    "ends_at": "2027-10-30T12:00:00+02:00",
                    "speakers": ["42"],
                },
                {"key": "106", "title": "Some time", "state": "accepted", "extra": {"starts_at": "T99"}},
            ],
            "extra_members": {"forms": [{"id": 1}], "config": {"app": "x"}},
        }
    )
