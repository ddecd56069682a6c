"""Use cases of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from media.images import repository
from media.images.headers import ImageHeader
from media.images.rules import original_key
from media.models import Image
from shared.contracts.media import ImageKind
from shared.ids import new_id
from shared.jobs.rows import enqueue
from shared.problems import NotFound
from shared.storage.files import Upload
from shared.storage.transit import FilesInTransit

CONVERT_IMAGE = "media.convert_image"


@dataclass(frozen=True)
class ImageUpload:
    """A received file that starts like an image; ``name`` is the sender's."""

    file: Upload
    name: str
    header: ImageHeader


async def store_original(
    files: FilesInTransit, upload: ImageUpload, *, organizer: str, kind: ImageKind, import_id: UUID | None = None
) -> Image:
    """Store the file and return its image, to be added with ``add_image``."""
    image_id = new_id()
    header = upload.header
    key = original_key(organizer, image_id)
    stored = await files.store(key, upload.file.chunks(), content_type=f"image/{header.format.lower()}")
    return Image(
        id=image_id,
        organizer=organizer,
        kind=kind,
        name=upload.name,
        format=header.format,
        width=header.width,
        height=header.height,
        size=stored.size,
        sha256=stored.sha256,
        original_key=key,
        import_id=import_id,
        variants=[],
    )


async def add_image(session: AsyncSession, files: FilesInTransit, image: Image, *, queue: str) -> None:
    """Add the image with the job that converts it."""
    await enqueue(session, image, actor=CONVERT_IMAGE, queue=queue)
    await files.keep(session, image.original_key)


async def find_imported(session: AsyncSession, organizer: str, import_id: UUID | None, name: str) -> Image | None:
    """Return the image that an earlier, equal call added."""
    if import_id is None:
        return None
    return await repository.find_imported(session, organizer, import_id, name)


async def add_imported_image(session: AsyncSession, files: FilesInTransit, image: Image, *, queue: str) -> Image:
    """Add the image, or return the one that a concurrent, equal call has added."""
    try:
        async with session.begin_nested():
            await add_image(session, files, image, queue=queue)
    except IntegrityError:
        winner = await find_imported(session, image.organizer, image.import_id, image.name)
        if winner is None:
            raise
        return winner
    return image


async def get_image(session: AsyncSession, image_id: UUID, organizer: str) -> Image:
    """Raise ``NotFound`` also for another organizer's image."""
    image = await repository.find(session, image_id, organizer)
    if image is None:
        raise NotFound(f"There is no image {image_id}.")
    return image


async def images_in_order(session: AsyncSession, organizer: str, image_ids: Sequence[UUID]) -> list[Image]:
    """Return the images in the order of their ids, without those that are not the organizer's."""
    images = {image.id: image for image in await repository.find_all(session, organizer, image_ids)}
    return [images[image_id] for image_id in dict.fromkeys(image_ids) if image_id in images]
