"""The job of an export: everything of an event in one archive, or a failure that says why."""

import asyncio
import hashlib
import io
import json
import zipfile
from pathlib import Path
from uuid import UUID

import pytest

from exports.archive.reader import read_archive
from exports.archive.writer import check_archive
from exports.exports.tasks import run_export
from exports.imports.tasks import run_import
from exports.resources import Resources
from services.exports.tests.exports.factories import ExportedEvent, change, download, programme_with
from services.exports.tests.factories import (
    LeftBehind,
    Members,
    ReadJob,
    RequestExport,
    TemporaryFiles,
    Upload,
    zipped,
)
from services.exports.tests.peers import Network, Peers
from shared.contracts.programme import ImageRef
from shared.ids import new_id
from testkit.plugin import Live, TokenFactory


@pytest.mark.main_path
@pytest.mark.parametrize("place", ["local", "s3"])
async def test_export_holds_everything_and_is_downloaded_by_its_link(
    live: Live,
    resources: Resources,
    event: ExportedEvent,
    request_export: RequestExport,
    read: ReadJob,
    tmp_path: Path,
    temporary_files: TemporaryFiles,
) -> None:
    export_id = await request_export(event.id)
    await run_export(resources, export_id)
    export = await read(export_id)
    assert (export["state"], export["error"]) == ("done", None)
    assert (export["counts"]["tickets"], export["counts"]["images"], export["counts"]["speakers"]) == (2, 3, 2)

    answer = await download(live, export["download_url"])
    assert answer.status_code == 200
    content = answer.content
    assert len(content) == export["size"]
    assert hashlib.sha256(content).hexdigest() == export["sha256"]
    assert "Long night" in answer.headers["content-disposition"]
    path = tmp_path / "export.zip"
    path.write_bytes(content)
    assert check_archive(path) == []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        images = {name: archive.read(name) for name in archive.namelist() if name.startswith("images/")}
        assert {name.rpartition(".")[2]: data for name, data in images.items()} == event.images
        tickets = json.loads(archive.read("tickets"))
        assert [ticket["name"] for ticket in tickets] == ["Regular", "Late"]
        assert tickets[0]["price"] == {"amount_minor": 1900, "currency": "EUR"}
        assert (tickets[0]["min_order"], tickets[0]["max_order"]) == (1, 10)
        assert json.loads(archive.read("meta"))["missing_images"] == []
        assert json.loads(archive.read("event"))["logo_url"] == "/images/logo.png"
    assert len(read_archive(path).images) == 3
    assert temporary_files() == []


@pytest.mark.main_path
async def test_repeated_job_writes_the_same_bytes_under_the_same_key(
    live: Live, resources: Resources, done: UUID, read: ReadJob, left_behind: LeftBehind
) -> None:
    first = await read(done)
    await change(live, done, state="queued")
    await run_export(resources, done)
    again = await read(done)
    assert (again["attempts"], again["sha256"]) == (2, first["sha256"])
    assert (await left_behind())["stored files"] == 1


@pytest.mark.parametrize("stopped_at", ["/internal/programmes", "/internal/images/states", "/internal/images/"])
async def test_worker_killed_during_an_export_leaves_no_partial_file(
    live: Live,
    resources: Resources,
    network: Network,
    event: ExportedEvent,
    request_export: RequestExport,
    read: ReadJob,
    left_behind: LeftBehind,
    stopped_at: str,
) -> None:
    reached = network.stop_at(stopped_at)
    export_id = await request_export(event.id)
    first = asyncio.create_task(run_export(resources, export_id))
    await reached.wait()
    first.cancel()
    await asyncio.sleep(0)
    network.gates[stopped_at].set()
    await asyncio.gather(first, return_exceptions=True)
    assert "stored files" not in await left_behind()
    await change(live, export_id, state="queued")  # as the periodic task does when the lease has expired
    await run_export(resources, export_id)
    assert (await read(export_id))["state"] == "done"


@pytest.mark.main_path
async def test_missing_image_fails_the_export_by_name_and_leaves_no_file(
    resources: Resources, peers: Peers, request_export: RequestExport, read: ReadJob, left_behind: LeftBehind
) -> None:
    missing = new_id()
    export_id = await request_export(await peers.add_event(programme_with(ImageRef(image_id=missing))))
    await run_export(resources, export_id)
    export = await read(export_id)
    assert (export["state"], export["error"]["code"]) == ("failed", "picture-missing")
    assert str(missing) in export["error"]["detail"]
    assert export["error"]["image_id"] == str(missing)
    assert "stored files" not in await left_behind()


@pytest.mark.main_path
async def test_image_deleted_while_the_archive_is_written_fails_the_export(
    resources: Resources,
    network: Network,
    event: ExportedEvent,
    request_export: RequestExport,
    read: ReadJob,
    left_behind: LeftBehind,
) -> None:
    last = event.image_ids["webp"]
    network.statuses[f"/internal/images/{last}/original"] = 404
    export_id = await request_export(event.id)
    await run_export(resources, export_id)
    export = await read(export_id)
    assert (export["state"], export["error"]["code"]) == ("failed", "picture-missing")
    assert str(last) in export["error"]["detail"]
    assert "stored files" not in await left_behind()


async def test_image_that_media_cannot_send_at_first_is_requested_again(
    resources: Resources, network: Network, event: ExportedEvent, request_export: RequestExport, read: ReadJob
) -> None:
    for image_id in event.image_ids.values():
        network.busy[f"/internal/images/{image_id}/original"] = 1
    export_id = await request_export(event.id)
    await run_export(resources, export_id)
    assert (await read(export_id))["state"] == "done"


async def test_event_that_tickets_does_not_know_yet_is_exported_without_tickets(
    resources: Resources, peers: Peers, request_export: RequestExport, read: ReadJob
) -> None:
    export_id = await request_export(await peers.add_event(programme_with()))
    await run_export(resources, export_id)
    export = await read(export_id)
    assert (export["state"], export["counts"]["tickets"]) == ("done", 0)


@pytest.mark.main_path
async def test_imported_event_is_exported_as_it_was_imported(
    live: Live,
    resources: Resources,
    tokens: TokenFactory,
    upload: Upload,
    members: Members,
    request_export: RequestExport,
    read: ReadJob,
    tmp_path: Path,
) -> None:
    members["tickets"] = [{"id": 1, "name": "Of the old system"}]
    job = (await upload(zipped(members))).json()
    await run_import(resources, UUID(job["id"]))
    event_id = (await live.client.get(f"/v1/imports/{job['id']}", headers=tokens.organizer())).json()["event_id"]
    export_id = await request_export(event_id)
    await run_export(resources, export_id)
    path = tmp_path / "again.zip"
    path.write_bytes((await download(live, (await read(export_id))["download_url"])).content)
    with zipfile.ZipFile(path) as archive:
        images = sorted(archive.read(name) for name in archive.namelist() if name.startswith("images/"))
        # The image that two speakers share is there for both.
        shared = members["images/speakers/both.png"]
        assert images == sorted([shared, shared, members["images/logo.png"], members["images/sponsors/bakery.png"]])
        assert json.loads(archive.read("tickets")) == members["tickets"]
        assert json.loads(archive.read("sponsors"))[1]["logo_url"] == "/images/sponsors/dead.png"
