"""The media service, as this one needs it."""

from collections.abc import AsyncIterable, Callable, Sequence
from typing import IO, Literal
from uuid import UUID

from pydantic import BaseModel

from exports.clients.calls import Neighbours, call

STATES_AT_ONCE = 500

ImageKind = Literal["event", "speaker", "sponsor", "other"]


class ImageState(BaseModel):
    """``state`` is ``received``, ``processing``, ``ready`` or ``rejected``; ``format`` is that of the original."""

    image_id: UUID
    state: str
    format: str


class _ImageStates(BaseModel):
    images: list[ImageState]


class _UploadedImage(BaseModel):
    image_id: UUID


async def upload_image(
    neighbours: Neighbours,
    *,
    organizer: str,
    import_id: UUID,
    name: str,
    kind: ImageKind,
    chunks: Callable[[], AsyncIterable[bytes]],
) -> UUID:
    """The image's id; the same organizer, import and name again give the same image. Raises media's refusal."""
    response = await call(
        neighbours,
        "POST",
        f"{neighbours.media_url}/internal/images",
        params={"organizer": organizer, "import_id": str(import_id), "name": name, "kind": kind},
        content=chunks,
        content_type="application/octet-stream",
    )
    return _UploadedImage.model_validate_json(response.content).image_id


async def image_states(neighbours: Neighbours, organizer: str, image_ids: Sequence[UUID]) -> dict[UUID, ImageState]:
    """Without those that media does not know as this organizer's."""
    states: dict[UUID, ImageState] = {}
    for start in range(0, len(image_ids), STATES_AT_ONCE):
        asked = [str(image_id) for image_id in image_ids[start : start + STATES_AT_ONCE]]
        query = _StatesQuery(organizer=organizer, image_ids=asked)
        response = await call(
            neighbours,
            "POST",
            f"{neighbours.media_url}/internal/images/states",
            content=query.model_dump_json().encode(),
        )
        answer = _ImageStates.model_validate_json(response.content)
        states.update((image.image_id, image) for image in answer.images)
    return states


async def fetch_original(neighbours: Neighbours, organizer: str, image_id: UUID, file: IO[bytes]) -> None:
    """Puts what was uploaded into the file, whole. Raises media's 404 when there is no such image."""
    await call(
        neighbours,
        "GET",
        f"{neighbours.media_url}/internal/images/{image_id}/original",
        params={"organizer": organizer},
        into=file,
    )


class _StatesQuery(BaseModel):
    organizer: str
    image_ids: list[str]
