"""From the upload to the variants, by the worker's own function, on both kinds of storage."""

import io
from collections.abc import AsyncIterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from PIL import Image as Picture
from sqlalchemy import Row, func, select, update

from media.images.sandbox import Sandbox
from media.images.tasks import Resources, convert_image
from media.models import Image, ImageVariant
from services.media.tests.factories import TemporaryFiles, Upload, noise, png
from shared.jobs import rows
from shared.messaging.tables import OUTBOX
from shared.storage import Storage, StorageUnavailable, StoredFile
from shared.storage.local import LocalStorage
from testkit.plugin import Live, TokenFactory

GATEWAY = "http://gateway.test"


async def messages(live: Live) -> Sequence[Row[Any]]:
    async with live.sessions() as session:
        return (await session.execute(select(OUTBOX).where(OUTBOX.c.kind == "message"))).all()


async def read(live: Live, tokens: TokenFactory, image_id: str) -> httpx.Response:
    return await live.client.get(f"/v1/images/{image_id}", headers=tokens.organizer())


async def lose_the_lease(live: Live) -> None:
    """Do what the requeueing of lost jobs does when a killed worker's lease has ended."""
    async with live.sessions.begin() as session:
        await session.execute(update(Image).values(state="queued"))


@pytest.mark.parametrize("place", ["local", "s3"])
async def test_a_png_with_transparency_becomes_three_small_jpegs_on_white(
    live: Live,
    upload: Upload,
    resources: Resources,
    tokens: TokenFactory,
    temporary_files: TemporaryFiles,
) -> None:
    content = png(2600, 1000)
    uploaded = await upload(content)
    image_id = uploaded.json()["id"]

    await convert_image(resources, UUID(image_id))

    answer = await read(live, tokens, image_id)
    image = answer.json()
    assert image["state"] == "ready"
    assert answer.headers["ETag"] != uploaded.headers["ETag"]
    sizes = [(variant["name"], variant["width"], variant["height"]) for variant in image["variants"]]
    assert sizes == [("large", 1300, 500), ("thumbnail", 500, 192), ("icon", 75, 29)]
    assert image["saved_bytes"] == len(content) - image["variants"][0]["size"]
    for variant in image["variants"]:
        assert variant["url"].startswith(f"{GATEWAY}/v1/images/{image_id}/{variant['name']}-")
        fetched = await live.client.get(variant["url"].removeprefix(GATEWAY))
        assert fetched.status_code == 200
        assert len(fetched.content) == variant["size"]
        picture = Picture.open(io.BytesIO(fetched.content))
        assert (picture.format, picture.size) == ("JPEG", (variant["width"], variant["height"]))
        assert picture.getpixel((1, 1)) == (255, 255, 255)
        right = picture.getpixel((variant["width"] - 3, 3))
        assert isinstance(right, tuple)
        assert right[2] > 150 > right[0]

    [message] = await messages(live)
    assert (message.type, str(message.aggregate_id), message.aggregate_seq) == (
        "media.image.processed.v1",
        image_id,
        2,
    )
    assert message.payload["organizer"] == "acme"
    assert message.payload["kind"] == "event"
    assert [GATEWAY + variant["path"] for variant in message.payload["variants"]] == [
        variant["url"] for variant in image["variants"]
    ]
    assert temporary_files() == []


@pytest.mark.parametrize("place", ["local", "s3"])
async def test_a_truncated_image_is_rejected_with_the_reason(
    live: Live,
    upload: Upload,
    resources: Resources,
    tokens: TokenFactory,
    temporary_files: TemporaryFiles,
) -> None:
    uploaded = await upload(noise(300)[:100_000])
    assert uploaded.status_code == 202

    await convert_image(resources, UUID(uploaded.json()["id"]))

    answer = await read(live, tokens, uploaded.json()["id"])
    assert answer.json()["state"] == "rejected"
    assert answer.json()["error"]["code"] == "not-an-image"
    assert "damaged or cut off" in answer.json()["error"]["detail"]
    assert answer.json()["error"]["errors"][0]["field"] == "file"
    assert answer.headers["ETag"] != uploaded.headers["ETag"]
    assert await messages(live) == []
    assert temporary_files() == []


@pytest.mark.main_path
async def test_a_job_that_runs_twice_has_one_effect(
    live: Live, upload: Upload, resources: Resources, tokens: TokenFactory
) -> None:
    image_id = (await upload(png())).json()["id"]
    await convert_image(resources, UUID(image_id))
    once = (await read(live, tokens, image_id)).json()

    await convert_image(resources, UUID(image_id))

    assert (await read(live, tokens, image_id)).json() == once
    assert len(await messages(live)) == 1
    async with live.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(ImageVariant)) == 3


class KilledAfter(LocalStorage):
    """A storage whose worker dies after so many files."""

    def __init__(self, inner: Storage, puts: int) -> None:
        assert isinstance(inner, LocalStorage)
        super().__init__(inner.folder, inner.keys)
        self.puts = puts

    async def put(self, key: str, chunks: AsyncIterable[bytes] | bytes, *, content_type: str) -> StoredFile:
        stored = await super().put(key, chunks, content_type=content_type)
        self.puts -= 1
        if self.puts == 0:
            raise RuntimeError("killed")
        return stored


@pytest.mark.parametrize("puts", [1, 3])
async def test_a_worker_repeats_the_work_of_one_that_died_before_its_commit(
    live: Live, upload: Upload, resources: Resources, tokens: TokenFactory, puts: int
) -> None:
    image_id = (await upload(png())).json()["id"]
    dying = replace(resources, storage=KilledAfter(resources.storage, puts))
    with pytest.raises(RuntimeError, match="killed"):
        await convert_image(dying, UUID(image_id))
    assert (await read(live, tokens, image_id)).json()["state"] == "processing"
    folder = live.settings.storage_folder / "variants" / image_id
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(left) == puts

    await lose_the_lease(live)
    await convert_image(resources, UUID(image_id))

    image = (await read(live, tokens, image_id)).json()
    assert image["state"] == "ready"
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(there) == {variant["url"].rpartition("/")[2] for variant in image["variants"]}
    assert left.items() <= there.items()
    assert len(await messages(live)) == 1


class UnavailableStorage(LocalStorage):
    async def copy_to_file(self, key: str, path: Path) -> int:
        raise StorageUnavailable


@pytest.mark.main_path
async def test_an_unavailable_storage_postpones_the_job_and_rejects_nothing(
    live: Live, upload: Upload, resources: Resources, tokens: TokenFactory
) -> None:
    image_id = (await upload(png())).json()["id"]
    storage = resources.storage
    assert isinstance(storage, LocalStorage)
    for _ in range(rows.MAX_ATTEMPTS + 1):
        await convert_image(
            replace(resources, storage=UnavailableStorage(storage.folder, storage.keys)), UUID(image_id)
        )
    assert (await read(live, tokens, image_id)).json()["state"] == "received"

    await convert_image(resources, UUID(image_id))

    assert (await read(live, tokens, image_id)).json()["state"] == "ready"


async def test_every_kind_gets_its_own_sizes(
    live: Live, upload: Upload, resources: Resources, tokens: TokenFactory, sandbox: Sandbox
) -> None:
    widths = {}
    for kind in ("event", "speaker", "sponsor"):
        image_id = (await upload(png(1600, 1600), kind=kind)).json()["id"]
        await convert_image(resources, UUID(image_id))
        image = (await read(live, tokens, image_id)).json()
        widths[kind] = [variant["width"] for variant in image["variants"]]
    assert widths == {"event": [500, 200, 30], "speaker": [500, 50, 35], "sponsor": [1000, 300, 75]}
