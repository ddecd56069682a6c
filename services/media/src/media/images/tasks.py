"""The job of an image: make its variants, store them and publish a message."""

import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

from media.images.conversion import Converted, convert
from media.images.rules import DIGEST_LENGTH, variant_key
from media.images.sandbox import Sandbox
from media.images.service import CONVERT_IMAGE
from media.images.sizes import VARIANTS
from media.models import Image, ImageVariant
from media.settings import MediaSettings
from shared.contracts.media import ImageProcessedV1
from shared.database.engine import Sessions
from shared.jobs.attempts import claim
from shared.messaging import outbox
from shared.storage import Storage, open_storage
from shared.storage.files import in_thread
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import JOB_BYTES

log = get_logger(__name__)

FOLDER_PREFIX = "rostrum-media-"
ABANDONED_AFTER = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class Resources:
    sessions: Sessions
    storage: Storage
    sandbox: Sandbox


@asynccontextmanager
async def open_resources(sessions: Sessions, *, settings: MediaSettings) -> AsyncIterator[Resources]:
    await in_thread(_remove_abandoned_folders)
    async with open_storage(settings) as storage:
        sandbox = Sandbox(workers=settings.conversions_at_once)
        try:
            yield Resources(sessions, storage, sandbox)
        finally:
            await sandbox.close()


async def convert_image(resources: Resources, image_id: UUID) -> None:
    """Safe to repeat after any interruption: an original always gives the same files under the same keys."""
    async with claim(resources.sessions, Image, image_id) as run:
        if run is None:
            return
        async with resources.sessions() as session:
            image = await session.get_one(Image, image_id)
        folder = Path(await in_thread(partial(tempfile.mkdtemp, prefix=FOLDER_PREFIX)))
        try:
            original = folder / "original"
            await resources.storage.copy_to_file(image.original_key, original)
            jpegs = await resources.sandbox.run(convert, original, folder, VARIANTS[image.kind])
            variants = [await _stored(resources.storage, image, n, jpeg) for n, jpeg in enumerate(jpegs)]
        finally:
            await in_thread(partial(shutil.rmtree, folder, ignore_errors=True))
        async with resources.sessions.begin() as session:
            await run.finish(session, version=image.version + 1)
            session.add_all(variants)
            message = ImageProcessedV1(
                organizer=image.organizer,
                image_id=image.id,
                kind=image.kind,
                variants=[variant.published() for variant in variants],
            )
            await outbox.add(session, message, subject=image.id, seq=image.version + 1)
        JOB_BYTES.labels(CONVERT_IMAGE).observe(image.size)
        log.info("image.converted", image_id=str(image_id), size=image.size, largest=variants[0].size)


async def _stored(storage: Storage, image: Image, position: int, jpeg: Converted) -> ImageVariant:
    digest = jpeg.sha256[:DIGEST_LENGTH]
    key = variant_key(image.id, jpeg.name, digest)
    content = await in_thread(jpeg.path.read_bytes)
    await storage.put(key, content, content_type="image/jpeg")
    return ImageVariant(
        image_id=image.id,
        name=jpeg.name,
        position=position,
        width=jpeg.width,
        height=jpeg.height,
        size=jpeg.size,
        digest=digest,
        key=key,
    )


def _remove_abandoned_folders() -> None:
    """Remove what killed workers left."""
    before = time.time() - ABANDONED_AFTER
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_mtime < before:
                shutil.rmtree(folder)
