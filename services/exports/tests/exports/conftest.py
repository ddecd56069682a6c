from typing import Any
from uuid import UUID

import pytest

from exports.exports.tasks import run_export
from exports.resources import Resources
from services.exports.tests.exports.factories import ExportedEvent, image, programme_with
from services.exports.tests.factories import ReadJob, RequestExport
from services.exports.tests.peers import Network, Peers
from services.media.tests.factories import png_claiming
from shared.contracts.programme import ImageRef
from testkit.plugin import Live, TokenFactory


@pytest.fixture
async def event(network: Network, peers: Peers) -> ExportedEvent:
    """One image, the PNG, cannot be converted."""
    images = {"png": png_claiming(40, 30) + bytes(700_000), "jpg": image("JPEG", 1), "webp": image("WEBP", 2)}
    ids = {suffix: await peers.add_image(content) for suffix, content in images.items()}
    programme = programme_with(
        ImageRef(path="images/old.png", image_id=ids["png"]),
        ImageRef(image_id=ids["jpg"]),
        ImageRef(image_id=ids["webp"], url="https://example.org/bo.png"),
    )
    event_id = await peers.add_event(programme)
    await peers.announce(event_id)
    await peers.add_ticket(event_id, "Regular", type="paid", price={"amount_minor": 1900, "currency": "EUR"})
    await peers.add_ticket(event_id, "Late", is_hidden=True)
    return ExportedEvent(event_id, images, ids)


@pytest.fixture
def request_export(live: Live, network: Network, tokens: TokenFactory) -> RequestExport:
    async def request(event_id: UUID) -> UUID:
        answer = await live.client.post(f"/v1/events/{event_id}/exports", headers=tokens.organizer())
        assert answer.status_code == 202, answer.text
        return UUID(answer.json()["id"])

    return request


@pytest.fixture
def read(live: Live, tokens: TokenFactory) -> ReadJob:
    async def read(export_id: UUID) -> dict[str, Any]:
        answer = await live.client.get(f"/v1/exports/{export_id}", headers=tokens.organizer())
        assert answer.headers["cache-control"] == "private, no-store"
        found: dict[str, Any] = answer.json()
        return found

    return read


@pytest.fixture
async def done(resources: Resources, event: ExportedEvent, request_export: RequestExport) -> UUID:
    """A finished export."""
    export_id = await request_export(event.id)
    await run_export(resources, export_id)
    return export_id
