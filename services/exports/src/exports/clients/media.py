"""Calls to the media service."""

from collections.abc import AsyncIterable, Callable, Sequence
from typing import IO
from uuid import UUID

from exports.clients.calls import PeerServices, call, parsed
from shared.contracts.calls import OrganizerQuery
from shared.contracts.media import ImageImport, ImageStates, ImageStatesQuery, ImageSummary, ImportedImage

STATES_AT_ONCE = 500


async def upload_image(peers: PeerServices, query: ImageImport, chunks: Callable[[], AsyncIterable[bytes]]) -> UUID:
    """Upload an image, once per organizer, import and name; return its id. Raises the refusal of media."""
    response = await call(
        peers,
        "POST",
        f"{peers.media_url}/internal/images",
        query=query,
        content=chunks,
        content_type="application/octet-stream",
    )
    return parsed(ImportedImage, response).image_id


async def image_states(peers: PeerServices, organizer: str, image_ids: Sequence[UUID]) -> dict[UUID, ImageSummary]:
    """Return the images by id, without those that are not this organizer's."""
    states: dict[UUID, ImageSummary] = {}
    for start in range(0, len(image_ids), STATES_AT_ONCE):
        body = ImageStatesQuery(organizer=organizer, image_ids=list(image_ids[start : start + STATES_AT_ONCE]))
        content = body.model_dump_json().encode()
        response = await call(peers, "POST", f"{peers.media_url}/internal/images/states", content=content)
        states.update((image.image_id, image) for image in parsed(ImageStates, response).images)
    return states


async def fetch_original(peers: PeerServices, organizer: str, image_id: UUID, file: IO[bytes]) -> None:
    """Write the original, whole, to the file. Raises the 404 of media when there is no such image."""
    url = f"{peers.media_url}/internal/images/{image_id}/original"
    await call(peers, "GET", url, query=OrganizerQuery(organizer=organizer), into=file)
