"""The job of an import: from the stored archive to an event with its images.

Safe to repeat after any interruption: images and event are created once, under the import's own id.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import UUID

from exports.archive.container import Archive, ArchiveTooLarge, MemberBroken, opened
from exports.archive.limits import LIMITS, Limits
from exports.archive.reader import ImageMember, ReadArchive, read_archive
from exports.clients import events, media
from exports.imports import repository
from exports.imports.rules import as_report, kind_of, refused_image, with_images
from exports.jobs import RUN_IMPORT
from exports.models import Import
from exports.progress.steps import Step
from exports.resources import Resources
from shared.contracts.media import ImageImport
from shared.contracts.programme import Repair
from shared.jobs.attempts import Run, claim
from shared.problems import Invalid, Problem
from shared.storage import FileNotStored
from shared.storage.files import in_thread, path_of
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import JOB_BYTES

log = get_logger(__name__)

READING, UPLOADING = "reading the archive", "uploading images"
STORING, CONVERTING = "storing the programme", "converting images"

UPLOADS_AT_ONCE = 6
# Statuses by which the media service refuses an image; with the code `invalid` it refuses the request.
REFUSALS = (413, 415, 422)
FIRST_WAIT, LONGEST_WAIT = 0.2, 1.0


async def run_import(resources: Resources, import_id: UUID) -> None:
    async with claim(resources.sessions, Import, import_id) as run:
        if run is None:
            return
        async with resources.sessions() as session:
            job = await repository.get(session, import_id)
        await run.progress(READING)
        with tempfile.TemporaryFile() as file:
            path = path_of(file)
            await _fetch(resources, job, path)
            JOB_BYTES.labels(RUN_IMPORT).observe(os.fstat(file.fileno()).st_size)
            limits = replace(LIMITS, image_size=min(LIMITS.image_size, resources.settings.max_image_size))
            async with resources.reading:
                read = await in_thread(partial(read_archive, path, limits))
            image_ids, refused = await _upload_images(resources, run, job, path, read.images, limits)
        await run.progress(STORING)
        programme = with_images(read.programme, image_ids)
        stored = await events.store_programme(resources.peers, import_id, job.organizer, programme)
        repairs = [*read.report, *refused, *stored.repairs]
        counts = {**stored.counts, "images": len(image_ids)}
        async with resources.sessions.begin() as session:  # readers see the event while its images are converted
            await run.update(
                session,
                event_id=stored.event_id,
                event_identifier=stored.identifier,
                counts=counts,
                repairs=as_report(repairs),
            )
        repairs += await _await_conversion(resources, run, job.organizer, read, image_ids)
        async with resources.sessions.begin() as session:
            await run.finish(session, repairs=as_report(repairs))
        log.info("import.done", import_id=str(import_id), event_id=str(stored.event_id), **counts)


async def _fetch(resources: Resources, job: Import, path: Path) -> None:
    if job.archive_key is None:
        raise FileNotStored("The archive is deleted. Upload it again.")
    await resources.storage.copy_to_file(job.archive_key, path)


async def _upload_images(
    resources: Resources, run: Run, job: Import, path: Path, images: list[ImageMember], limits: Limits
) -> tuple[dict[str, UUID], list[Repair]]:
    """Return image ids by member, and a report line for each image that the media service refuses."""
    step = Step(run, UPLOADING, len(images))
    await step.start()
    image_ids: dict[str, UUID] = {}
    refused: dict[str, Repair] = {}

    async def upload_next(archive: Archive, waiting: Iterator[ImageMember]) -> None:
        for image in waiting:
            try:
                query = ImageImport(
                    organizer=job.organizer, import_id=job.id, name=image.member, kind=kind_of(image)
                )
                chunks = partial(_chunks, archive, image.member, limits.image_size)
                image_ids[image.member] = await media.upload_image(resources.peers, query, chunks)
            except (ArchiveTooLarge, MemberBroken) as problem:
                refused[image.member] = refused_image(image, problem.detail)
            except Problem as problem:
                if problem.status not in REFUSALS or problem.code == Invalid.code:
                    raise
                refused[image.member] = refused_image(image, problem.detail)
            await step.reached(len(image_ids) + len(refused))

    with ExitStack() as stack:
        archive = await in_thread(partial(stack.enter_context, opened(path, limits)))
        waiting = iter(images)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(UPLOADS_AT_ONCE):
                    group.create_task(upload_next(archive, waiting))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
    return image_ids, [refused[image.member] for image in images if image.member in refused]


async def _chunks(archive: Archive, member: str, size_limit: int) -> AsyncGenerator[bytes, None]:
    chunks = archive.chunks(member, size_limit)
    while (chunk := await in_thread(partial(next, chunks, None))) is not None:
        yield chunk


async def _await_conversion(
    resources: Resources, run: Run, organizer: str, read: ReadArchive, image_ids: dict[str, UUID]
) -> list[Repair]:
    """Return report lines for images that could not be converted.

    The import also ends after ``resources.conversion_patience`` seconds without progress: the event exists, and
    receives its images by messages.
    """
    pending = set(image_ids.values())
    rejected: set[UUID] = set()
    pause, moved_at = FIRST_WAIT, time.monotonic()
    await run.progress(CONVERTING, 0, len(image_ids))
    while pending:
        states = await media.image_states(resources.peers, organizer, sorted(pending))
        ended = {image_id for image_id in pending if image_id not in states or states[image_id].state in _ENDED}
        rejected |= {image_id for image_id in ended if image_id not in states or states[image_id].state != _READY}
        pending -= ended
        if ended:
            await run.progress(CONVERTING, len(image_ids) - len(pending), len(image_ids))
            pause, moved_at = FIRST_WAIT, time.monotonic()
        elif time.monotonic() - moved_at > resources.conversion_patience:
            break
        if pending:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_WAIT)
    lines = [
        refused_image(image, "It cannot be converted: it is damaged or too large. The original is kept.")
        for image in read.images
        if image_ids.get(image.member) in rejected
    ]
    if pending:
        message = f"{len(pending):,} images are still being converted. They appear when they are ready."
        lines.append(Repair(member="images", message=message))
    return lines


_READY = "ready"
_ENDED = (_READY, "rejected")
