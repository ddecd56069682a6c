"""The service's own copy of where images are served."""

import json
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from events.images.handlers import on_image_processed
from events.messenger import SUBSCRIPTIONS
from events.models import ImageCopy
from services.events.tests.factories import CreateEvent, ImportProgramme
from shared.contracts.envelope import Envelope
from shared.contracts.media import ImageProcessedV1
from shared.contracts.programme import Programme
from shared.database.engine import Sessions
from shared.messaging.inbox import handle_once
from testkit.plugin import TokenFactory


def processed(image_id: UUID, *, organizer: str = "acme", digest: str = "aa") -> ImageProcessedV1:
    return ImageProcessedV1.model_validate(
        {
            "organizer": organizer,
            "image_id": image_id,
            "kind": "event",
            "variants": [
                {
                    "name": name,
                    "path": f"/v1/images/{image_id}/{name}-{digest}.jpg",
                    "width": 1,
                    "height": 1,
                    "size": 9,
                }
                for name in ("large", "thumbnail", "icon")
            ],
        }
    )


def envelope(image_id: UUID, seq: int) -> Envelope:
    return Envelope.model_validate(
        {
            "id": uuid4(),
            "source": "/rostrum/media",
            "type": ImageProcessedV1.message_type,
            "subject": image_id,
            "time": "2026-11-22T12:00:00Z",
            "aggregatetype": "media.image",
            "aggregateseq": seq,
        }
    )


def body_of(envelope: Envelope, message: ImageProcessedV1) -> bytes:
    return json.dumps({**envelope.model_dump(mode="json"), "data": message.model_dump(mode="json")}).encode()


@pytest.mark.main_path
async def test_message_is_handled_once_and_an_older_one_changes_nothing(
    sessions: Sessions, session: AsyncSession
) -> None:
    image_id = uuid4()
    [subscription] = [item for item in SUBSCRIPTIONS if item.message is ImageProcessedV1]
    younger, older = envelope(image_id, 3), envelope(image_id, 2)

    message = processed(image_id, digest="new")
    assert await handle_once(sessions, body_of(younger, message), younger, subscription) == "handled"
    assert await handle_once(sessions, body_of(younger, message), younger, subscription) == "duplicate"
    late = processed(image_id, digest="old")
    assert await handle_once(sessions, body_of(older, late), older, subscription) == "stale"

    copy = await session.get_one(ImageCopy, image_id)
    assert copy.seq == 3
    assert copy.variants[0]["path"].endswith("large-new.jpg")


@pytest.mark.main_path
async def test_event_has_addresses_of_its_image_once_it_is_processed(
    client: httpx.AsyncClient, tokens: TokenFactory, session: AsyncSession, create_event: CreateEvent
) -> None:
    image_id, logo_id = uuid4(), uuid4()
    event = await create_event(image_id=str(image_id), logo_image_id=str(logo_id))
    path = f"/v1/events/{event['id']}"
    before = await client.get(path, headers=tokens.organizer())
    assert (before.json()["images"], before.json()["logo_images"]) == (None, None)

    for _ in range(2):
        await on_image_processed(session, processed(image_id), envelope(image_id, 1))
    await session.commit()

    headers = {**tokens.organizer(), "If-None-Match": before.headers["ETag"]}
    after = await client.get(path, headers=headers)
    assert after.status_code == 200
    assert after.json()["images"] == {
        name: f"http://gateway.test/v1/images/{image_id}/{name}-aa.jpg" for name in ("large", "thumbnail", "icon")
    }
    assert after.json()["logo_images"] is None
    listed = await client.get("/v1/events", headers=tokens.organizer())
    assert listed.json()["items"] == [after.json()]
    changed = await client.patch(
        path, json={"name": "New"}, headers={**tokens.organizer(), "If-Match": after.headers["ETag"]}
    )
    assert changed.status_code == 200
    assert changed.json()["images"] == after.json()["images"]


@pytest.mark.main_path
async def test_image_of_another_organizer_is_ignored(
    client: httpx.AsyncClient, tokens: TokenFactory, session: AsyncSession, create_event: CreateEvent
) -> None:
    image_id = uuid4()
    await on_image_processed(session, processed(image_id, organizer="other"), envelope(image_id, 1))
    await session.commit()
    event = await create_event(image_id=str(image_id))
    assert event["images"] is None
    answer = await client.get(f"/v1/events/{event['id']}", headers=tokens.organizer())
    assert answer.json()["images"] is None


@pytest.mark.main_path
async def test_speakers_and_sponsors_have_addresses_of_their_images_and_the_original_address(
    client: httpx.AsyncClient, session: AsyncSession, import_programme: ImportProgramme, programme: Programme
) -> None:
    photo_id, logo_id = uuid4(), uuid4()
    content = programme.model_dump(mode="json")
    content["speakers"][0]["photo"] = {"image_id": str(photo_id), "url": "https://example.org/ada.jpg"}
    content["sponsors"][0]["logo"] = {"image_id": str(logo_id), "path": "images/b.png"}
    event_id = await import_programme(Programme.model_validate(content))
    for image_id in (photo_id, logo_id):
        await on_image_processed(session, processed(image_id), envelope(image_id, 1))
    await session.commit()

    ada = (await client.get(f"/v1/events/{event_id}/speakers")).json()["items"][0]
    assert ada["images"]["icon"] == f"http://gateway.test/v1/images/{photo_id}/icon-aa.jpg"
    assert ada["original_image_url"] == "https://example.org/ada.jpg"
    one = await client.get(f"/v1/events/{event_id}/speakers/{ada['id']}")
    assert one.json() == ada
    bakery = (await client.get(f"/v1/events/{event_id}/sponsors")).json()["items"][0]
    assert bakery["images"]["large"].endswith(f"{logo_id}/large-aa.jpg")
    assert bakery["original_image_url"] is None
