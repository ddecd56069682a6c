"""The job of an export: from an event to an archive in the storage.

Safe to run again after any interruption: the same job writes the same bytes under the same key, as long as the
event does not change.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import IO
from uuid import UUID

from sqlalchemy import func

from exports.archive.writer import place_images
from exports.clients import events, media, tickets
from exports.clients.media import ImageState
from exports.exports.rules import ZIP, counts_of, file_key
from exports.exports.service import RUN_EXPORT
from exports.exports.writing import archive_chunks, check_stored
from exports.models import Export
from exports.progress import Pace
from exports.resources import Resources
from shared.contracts.programme import Programme
from shared.jobs.attempts import claim
from shared.problems import Conflict, Problem
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import JOB_BYTES

log = get_logger(__name__)

READING, WRITING, CHECKING = "reading the event", "writing the archive", "checking the archive"


class PictureMissing(Conflict):
    """An export must not lose a picture in silence, so it rather fails."""

    code = "picture-missing"
    title = "A picture of the event can't be had"


async def run_export(resources: Resources, export_id: UUID) -> None:
    neighbours = resources.neighbours
    async with claim(resources.sessions, Export, export_id) as run:
        if run is None:
            return
        async with resources.sessions() as session:
            export = await session.get_one(Export, export_id)
        await run.progress(READING)
        programme = await events.read_programme(neighbours, export.event_id, export.organizer)
        sold = await tickets.list_tickets(neighbours, export.event_id, export.organizer)
        programme, wanted = await _with_placed_images(resources, export, programme)

        pace = Pace(run, WRITING, len(wanted))
        await pace.start()
        packed = 0

        def has_packed(number: int) -> None:
            nonlocal packed
            packed = number

        async def parts() -> AsyncGenerator[bytes, None]:
            chunks = archive_chunks(
                programme,
                wanted,
                partial(_fetch, resources, export),
                # Without tickets of ours those that an imported archive brought along are given back.
                tickets=sold or None,
                root_url=resources.settings.public_url,
                created_at=export.created_at.isoformat(),
                packed=has_packed,
            )
            async with aclosing(chunks):
                async for part in chunks:
                    await pace.reached(packed)
                    yield part

        key = file_key(export.organizer, export.id)
        async with aclosing(parts()) as content:
            stored = await resources.storage.put(key, content, content_type=ZIP)
        await run.progress(CHECKING, len(wanted), len(wanted))
        await check_stored(resources.storage, stored)
        counts = counts_of(programme, tickets=len(sold), images=len(wanted))
        async with resources.sessions.begin() as session:
            await run.finish(
                session,
                size=stored.size,
                sha256=stored.sha256,
                counts=counts,
                expires_at=func.clock_timestamp() + timedelta(seconds=resources.settings.export_lifetime),
            )
        JOB_BYTES.labels(RUN_EXPORT).observe(stored.size)
        log.info("export.done", export_id=str(export_id), size=stored.size, **counts)


async def _with_placed_images(
    resources: Resources, export: Export, programme: Programme
) -> tuple[Programme, dict[str, UUID]]:
    """Every picture of ours with a path in the archive, whatever became of its conversion."""
    _, placed = await asyncio.to_thread(place_images, programme, lambda _: "")
    image_ids = sorted(set(placed.values()))
    states = await media.image_states(resources.neighbours, export.organizer, image_ids)
    for path, image_id in placed.items():
        if image_id not in states:
            raise _missing(image_id, path)
    return await asyncio.to_thread(place_images, programme, lambda image_id: _suffix(states[image_id]))


def _suffix(image: ImageState) -> str:
    return {"JPEG": ".jpg"}.get(image.format, f".{image.format.lower()}")


async def _fetch(resources: Resources, export: Export, image_id: UUID, file: IO[bytes]) -> None:
    try:
        await media.fetch_original(resources.neighbours, export.organizer, image_id, file)
    except Problem as problem:
        if problem.status == 404:
            raise _missing(image_id) from problem
        raise


def _missing(image_id: UUID, path: str | None = None) -> PictureMissing:
    return PictureMissing(
        f"Image {image_id} of the event is not in the media service{f' ({path})' if path else ''}. Upload the "
        "picture again, or take it out of the event, and request a new export.",
        image_id=str(image_id),
    )
