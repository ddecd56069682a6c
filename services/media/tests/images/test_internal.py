"""The paths for other services."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select

from media.images.tasks import Resources, convert_image
from media.models import Image
from services.media.tests.factories import NothingIsLeft, noise, png
from shared.ids import new_id
from testkit.plugin import Live, TokenFactory

Send: TypeAlias = Callable[..., Awaitable[httpx.Response]]
IMPORT = str(new_id())


@pytest.fixture
def send(live: Live, tokens: TokenFactory) -> Send:
    async def send(content: bytes | AsyncIterator[bytes], **query: str) -> httpx.Response:
        params = {"organizer": "acme", "kind": "speaker", "name": "images/ada.png", "import_id": IMPORT} | query
        return await live.client.post(
            "/internal/images", params=params, content=content, headers=tokens.service("exports")
        )

    return send


@pytest.mark.main_path
async def test_an_imported_image_sent_again_is_the_same_image(live: Live, send: Send) -> None:
    first = await send(png())
    again = await send(png())

    assert (first.status_code, first.json()["state"]) == (201, "received")
    assert (again.status_code, again.json()) == (200, first.json())
    different = [
        await send(png(), name="images/grace.png"),
        await send(png(), import_id=str(new_id())),
        await send(png(), organizer="rival"),
    ]
    assert [answer.status_code for answer in different] == [201] * 3
    assert len({answer.json()["image_id"] for answer in [first, *different]}) == 4


@pytest.mark.main_path
async def test_concurrent_equal_imports_get_one_image(live: Live, send: Send) -> None:
    answers = await asyncio.gather(*(send(png()) for _ in range(5)))

    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    assert len({answer.json()["image_id"] for answer in answers}) == 1
    kept = [path for path in live.settings.storage_folder.rglob("*") if path.is_file()]
    assert [path.name for path in kept] == [answers[0].json()["image_id"]]
    async with live.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Image)) == 1


async def test_a_streamed_body_is_counted_and_refused_like_a_public_upload(
    live: Live, send: Send, nothing_is_left: NothingIsLeft
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    too_large = await send(endless())
    assert (too_large.status_code, too_large.json()["code"]) == (413, "image-file-too-large")
    declared = await send(bytes(live.settings.max_image_size + 1))
    assert (declared.status_code, declared.json()["code"]) == (413, "image-file-too-large")
    no_image = await send(b"words")
    assert (no_image.status_code, no_image.json()["code"]) == (422, "not-an-image")
    svg = await send(b"<svg></svg>")
    assert (svg.status_code, svg.json()["code"]) == (415, "image-format-refused")
    unnamed = await send(b"x", name="a\0b")
    assert unnamed.status_code == 422
    await nothing_is_left()


@pytest.mark.main_path
async def test_states_come_in_the_order_asked_without_other_organizers_images(
    live: Live, send: Send, resources: Resources, tokens: TokenFactory
) -> None:
    ready, waiting = [(await send(png(), name=name)).json()["image_id"] for name in ("a.png", "b.png")]
    foreign = (await send(png(), organizer="rival")).json()["image_id"]
    await convert_image(resources, UUID(ready))

    answer = await live.client.post(
        "/internal/images/states",
        json={"organizer": "acme", "image_ids": [waiting, foreign, ready, str(new_id())]},
        headers=tokens.service("exports"),
    )

    first, second = answer.json()["images"]
    assert first == {"image_id": waiting, "state": "received", "format": "PNG", "variants": []}
    assert (second["image_id"], second["state"]) == (ready, "ready")
    assert [variant["name"] for variant in second["variants"]] == ["large", "thumbnail", "icon"]
    fetched = await live.client.get(second["variants"][0]["path"])
    assert len(fetched.content) == second["variants"][0]["size"]
    too_many = await live.client.post(
        "/internal/images/states",
        json={"organizer": "acme", "image_ids": [str(new_id())] * 501},
        headers=tokens.service("exports"),
    )
    assert too_many.status_code == 422


@pytest.mark.main_path
async def test_an_original_is_unchanged_and_only_for_its_organizer(
    live: Live, send: Send, tokens: TokenFactory
) -> None:
    content = noise(900)
    image_id = (await send(content)).json()["image_id"]
    path = f"/internal/images/{image_id}/original"

    answer = await live.client.get(path, params={"organizer": "acme"}, headers=tokens.service("exports"))
    assert answer.content == content
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Content-Type"] == "image/png"
    foreign = await live.client.get(path, params={"organizer": "rival"}, headers=tokens.service("exports"))
    assert foreign.status_code == 404
