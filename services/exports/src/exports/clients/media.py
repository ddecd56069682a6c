"""Calls to the media service."""

from collections.abc import AsyncIterable, Callable, Sequence
from typing import IO
from uuid import UUID

from pydantic import BaseModel

from exports.clients.calls import PeerServices, call
from shared.contracts.media import ImageKind

STATES_AT_ONCE = 500


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
    peers: PeerServices,
    *,
    organizer: str,
    import_id: UUID,
    name: str,
    kind: ImageKind,
    chunks: Callable[[], AsyncIterable[bytes]],
) -> UUID:
    """Upload an image, once per organizer, import and name; return its id. Raises media's refusal."""
    response = await call(
        peers,
        "POST",
        f"{peers.media_url}/internal/images",
        params={"organizer": organizer, "import_id": str(import_id), "name": name, "kind": kind},
        content=chunks,
        content_type="application/octet-stream",
    )
    return _UploadedImage.model_validate_json(response.content).image_id


async def image_states(peers: PeerServices, organizer: str, image_ids: Sequence[UUID]) -> dict[UUID, ImageState]:
    """Return the images by id, without those that are not this organizer's."""
    states: dict[UUID, ImageState] = {}
    for start in range(0, len(image_ids), STATES_AT_ONCE):
        asked = [str(image_id) for image_id in image_ids[start : start + STATES_AT_ONCE]]
        query = _StatesQuery(organizer=organizer, image_ids=asked)
        response = await call(
            peers,
            "POST",
            f"{peers.media_url}/internal/images/states",
            content=query.model_dump_json().encode(),
        )
        answer = _ImageStates.model_validate_json(response.content)
        states.update((image.image_id, image) for image in answer.images)
    return states


async def fetch_original(peers: PeerServices, organizer: str, image_id: UUID, file: IO[bytes]) -> None:
    """Write the original, whole, to the file. Raises the 404 of the media service when there is no such image."""
    await call(
        peers,
        "GET",
        f"{peers.media_url}/internal/images/{image_id}/original",
        params={"organizer": organizer},
        into=file,
    )


class _StatesQuery(BaseModel):
    organizer: str
    image_ids: list[str]
