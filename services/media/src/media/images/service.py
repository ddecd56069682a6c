"""Use cases of images."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from media.images import repository
from media.images.rules import original_key
from media.images.sizes import ImageKind
from media.images.uploads import ImageUpload
from media.models import Image
from shared.ids import new_id
from shared.jobs.rows import enqueue
from shared.problems import NotFound
from shared.settings import Settings
from shared.storage.transit import FilesInTransit

CONVERT_IMAGE = "media.convert_image"


def job_queue(settings: Settings) -> str:
    return f"{settings.service}.jobs"


async def store_original(
    files: FilesInTransit, upload: ImageUpload, *, organizer: str, kind: ImageKind, import_id: UUID | None = None
) -> Image:
    """The upload's image, whose original is stored; it becomes one by ``add_image``."""
    image_id = new_id()
    key = original_key(organizer, image_id)
    stored = await files.store(key, upload.upload.chunks(), content_type=f"image/{upload.header.format.lower()}")
    return Image(
        id=image_id,
        organizer=organizer,
        kind=kind,
        name=upload.name,
        format=upload.header.format,
        width=upload.header.width,
        height=upload.header.height,
        size=stored.size,
        sha256=stored.sha256,
        original_key=key,
        import_id=import_id,
        variants=[],
    )


async def add_image(session: AsyncSession, files: FilesInTransit, image: Image, *, queue: str) -> None:
    """Adds it with the job that converts it."""
    await enqueue(session, image, actor=CONVERT_IMAGE, queue=queue)
    await files.keep(session, image.original_key)


async def find_imported(session: AsyncSession, organizer: str, import_id: UUID | None, name: str) -> Image | None:
    """The image that an earlier, equal call has made."""
    if import_id is None:
        return None
    return await repository.find_imported(session, organizer, import_id, name)


async def add_imported_image(session: AsyncSession, files: FilesInTransit, image: Image, *, queue: str) -> Image:
    """Adds it, unless an equal call that runs at the same time has won; then the image of that one."""
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
    """Raises ``NotFound``."""
    image = await repository.find(session, image_id, organizer)
    if image is None:
        raise NotFound(f"There is no image {image_id}.")
    return image


async def images_in_order(session: AsyncSession, organizer: str, image_ids: Sequence[UUID]) -> list[Image]:
    """Without those that are not the organizer's."""
    images = {image.id: image for image in await repository.find_all(session, organizer, image_ids)}
    return [images[image_id] for image_id in dict.fromkeys(image_ids) if image_id in images]
