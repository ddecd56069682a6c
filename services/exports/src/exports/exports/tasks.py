"""The job of an export: from an event to an archive in the storage.

Safe to repeat after any interruption: while the event does not change, the same job writes the same bytes under the
same key.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import IO
from uuid import UUID

from exports.archive.writer import place_images
from exports.clients import events, media, tickets
from exports.exports import repository
from exports.exports.rules import ZIP, counts_of, file_key
from exports.exports.writing import archive_chunks, check_stored
from exports.jobs import RUN_EXPORT
from exports.models import Export
from exports.progress.steps import Step
from exports.resources import Resources
from shared.contracts.media import ImageSummary
from shared.contracts.programme import Programme
from shared.jobs.attempts import claim
from shared.problems import Conflict, Problem
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import JOB_BYTES

log = get_logger(__name__)

READING, WRITING, CHECKING = "reading the event", "writing the archive", "checking the archive"


class ImageMissing(Conflict):
    """An export must not lose an image silently, so it fails."""

    code = "picture-missing"
    title = "Missing image"

    def __init__(self, image_id: UUID, path: str | None = None) -> None:
        super().__init__(
            f"Image {image_id} of the event{f' ({path})' if path else ''} is not in the media service. Upload it "
            "again, or remove it from the event, and request a new export.",
            image_id=str(image_id),
        )


async def run_export(resources: Resources, export_id: UUID) -> None:
    peers = resources.peers
    async with claim(resources.sessions, Export, export_id) as run:
        if run is None:
            return
        async with resources.sessions() as session:
            export = await repository.get(session, export_id)
        await run.progress(READING)
        programme = await events.read_programme(peers, export.event_id, export.organizer)
        event_tickets = await tickets.list_tickets(peers, export.event_id, export.organizer)
        programme, wanted = await _with_placed_images(resources, export, programme)

        step = Step(run, WRITING, len(wanted))
        await step.start()
        packed = 0

        def has_packed(number: int) -> None:
            nonlocal packed
            packed = number

        async def parts() -> AsyncGenerator[bytes, None]:
            chunks = archive_chunks(
                programme,
                wanted,
                partial(_fetch, resources, export),
                tickets=[ticket.model_dump(mode="json") for ticket in event_tickets],
                root_url=resources.settings.public_url,
                created_at=export.created_at.isoformat(),
                packed=has_packed,
            )
            async with aclosing(chunks):
                async for part in chunks:
                    await step.reached(packed)
                    yield part

        key = file_key(export.organizer, export.id)
        async with aclosing(parts()) as content:
            stored = await resources.storage.put(key, content, content_type=ZIP)
        await run.progress(CHECKING, len(wanted), len(wanted))
        await check_stored(resources.storage, stored)
        counts = counts_of(programme, tickets=len(event_tickets), images=len(wanted))
        async with resources.sessions.begin() as session:
            await run.finish(
                session,
                size=stored.size,
                sha256=stored.sha256,
                counts=counts,
                expires_at=repository.expiry(resources.settings.export_lifetime),
            )
        JOB_BYTES.labels(RUN_EXPORT).observe(stored.size)
        log.info("export.done", export_id=str(export_id), size=stored.size, **counts)


async def _with_placed_images(
    resources: Resources, export: Export, programme: Programme
) -> tuple[Programme, dict[str, UUID]]:
    """Give every image of the media service a path in the archive, whether or not it was converted."""
    _, placed = await asyncio.to_thread(place_images, programme, lambda _: "")
    image_ids = sorted(set(placed.values()))
    states = await media.image_states(resources.peers, export.organizer, image_ids)
    for path, image_id in placed.items():
        if image_id not in states:
            raise ImageMissing(image_id, path)
    return await asyncio.to_thread(place_images, programme, lambda image_id: _suffix(states[image_id]))


def _suffix(image: ImageSummary) -> str:
    return {"JPEG": ".jpg"}.get(image.format, f".{image.format.lower()}")


async def _fetch(resources: Resources, export: Export, image_id: UUID, file: IO[bytes]) -> None:
    try:
        await media.fetch_original(resources.peers, export.organizer, image_id, file)
    except Problem as problem:
        if problem.status == 404:
            raise ImageMissing(image_id) from problem
        raise
