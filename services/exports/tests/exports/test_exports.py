"""Exports: requested, written, checked, downloaded by a signed link, and gone when their time is over."""

import asyncio
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select, update

from exports.archive.reader import read_archive
from exports.archive.writer import check_archive
from exports.exports.cleanup import delete_files
from exports.exports.tasks import run_export
from exports.imports.tasks import run_import
from exports.models import Export
from exports.resources import Resources
from services.exports.tests.conftest import identifier
from shared.ids import new_id
from shared.messaging.tables import OUTBOX
from shared.storage import links
from testkit.calls import newest_call
from testkit.plugin import Live, TokenFactory

LeftBehind = Callable[[], Awaitable[dict[str, int]]]
Members = dict[str, Any]
PICTURES = [bytes([number]) * (700_000 + number) for number in range(3)]


@pytest.fixture
def event_id(stand_in: Any, programme: Members) -> UUID:
    """An event with an own logo, two speakers' photos (one of them never converted) and two tickets."""
    logo, ada, bo = (
        stand_in.own_image(content, state=state, format=format_)
        for content, state, format_ in zip(
            PICTURES, ("ready", "rejected", "ready"), ("PNG", "JPEG", "WEBP"), strict=True
        )
    )
    programme["event"]["logo"] = {"path": "images/old.png", "image_id": str(logo)}
    programme["speakers"] = [
        {"key": str(new_id()), "name": "Ada", "photo": {"image_id": str(ada)}},
        {"key": str(new_id()), "name": "Bo", "photo": {"image_id": str(bo), "url": "https://example.org/bo.png"}},
    ]
    event_id: UUID = stand_in.own_event(programme)
    stand_in.tickets[event_id] = newest_call("tickets.event_tickets.read").answer["tickets"]
    return event_id


@pytest.fixture
def request_export(live: Live, tokens: TokenFactory) -> Callable[..., Awaitable[UUID]]:
    async def request(event_id: UUID) -> UUID:
        answer = await live.client.post(f"/v1/events/{event_id}/exports", headers=tokens.organizer())
        assert answer.status_code == 202, answer.text
        return UUID(answer.json()["id"])

    return request


@pytest.fixture
def read(live: Live, tokens: TokenFactory) -> Callable[[UUID], Awaitable[Members]]:
    async def read(export_id: UUID) -> Members:
        answer = await live.client.get(f"/v1/exports/{export_id}", headers=tokens.organizer())
        assert answer.headers["cache-control"] == "private, no-store"
        found: Members = answer.json()
        return found

    return read


async def download(live: Live, link: str) -> httpx.Response:
    """Without a token, as anybody who has the link."""
    parts = urlsplit(link)
    if parts.netloc == "gateway.test":
        return await live.client.get(f"{parts.path}?{parts.query}")
    async with httpx.AsyncClient() as client:
        return await client.get(link)


async def change(live: Live, export_id: UUID, **values: Any) -> None:
    async with live.sessions.begin() as session:
        await session.execute(update(Export).where(Export.id == export_id).values(**values))


@pytest.mark.main_path
async def test_a_request_becomes_a_job_with_a_place_to_follow(
    live: Live, tokens: TokenFactory, event_id: UUID, read: Any
) -> None:
    answer = await live.client.post(f"/v1/events/{event_id}/exports", headers=tokens.organizer())
    assert answer.status_code == 202
    export = answer.json()
    assert answer.headers["location"] == f"/v1/exports/{export['id']}"
    assert (export["state"], export["event_id"]) == ("queued", str(event_id))
    assert (export["download_url"], export["size"], export["expired"]) == (None, None, False)
    assert await read(UUID(export["id"])) == export
    async with live.sessions() as session:
        hint = (await session.execute(select(OUTBOX))).one()
    assert (hint.type, hint.payload["queue"]) == ("exports.run_export", "exports.jobs")


async def test_the_short_identifier_of_an_event_stands_for_its_id(
    live: Live, tokens: TokenFactory, event_id: UUID
) -> None:
    path = f"/v1/events/{identifier(event_id)}/exports"
    export = await live.client.post(path, headers=tokens.organizer())
    assert (export.status_code, export.json()["event_id"]) == (202, str(event_id))
    for reference in (identifier(event_id), event_id):
        listed = await live.client.get(f"/v1/events/{reference}/exports", headers=tokens.organizer())
        assert [item["id"] for item in listed.json()["items"]] == [export.json()["id"]]


@pytest.mark.parametrize("reference", ["zzzzzzzz", "..", "%2e%2e", "a b", "x" * 37, "%00"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_reference_to_no_event_is_not_found(
    live: Live, tokens: TokenFactory, method: str, reference: str
) -> None:
    answer = await live.client.request(method, f"/v1/events/{reference}/exports", headers=tokens.organizer())
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


@pytest.mark.main_path
async def test_a_request_sent_twice_under_one_key_is_one_export(
    live: Live, tokens: TokenFactory, event_id: UUID
) -> None:
    headers = tokens.organizer() | {"Idempotency-Key": "abc"}
    first, second = [await live.client.post(f"/v1/events/{event_id}/exports", headers=headers) for _ in range(2)]
    assert first.json() == second.json()
    listed = await live.client.get(f"/v1/events/{event_id}/exports", headers=tokens.organizer())
    assert len(listed.json()["items"]) == 1


@pytest.mark.main_path
@pytest.mark.parametrize("storage_place", ["local", "s3"])
async def test_an_export_holds_everything_and_is_downloaded_by_its_link(
    live: Live,
    resources: Resources,
    event_id: UUID,
    request_export: Any,
    read: Any,
    tmp_path: Path,
    temporary_files: Any,
) -> None:
    export_id = await request_export(event_id)
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
        pictures = {name: archive.read(name) for name in archive.namelist() if name.startswith("images/")}
        assert {name.rpartition(".")[2]: data for name, data in pictures.items()} == dict(
            zip(("png", "jpg", "webp"), PICTURES, strict=True)
        )
        assert [ticket["name"] for ticket in json.loads(archive.read("tickets"))] == ["Regular", "Supporter"]
        assert json.loads(archive.read("meta"))["missing_images"] == []
        assert json.loads(archive.read("event"))["logo_url"] == "/images/logo.png"
    assert len(read_archive(path).images) == 3
    assert temporary_files() == []


@pytest.mark.main_path
async def test_the_same_job_run_again_writes_the_same_bytes_in_the_same_place(
    live: Live, resources: Resources, event_id: UUID, request_export: Any, read: Any, left_behind: LeftBehind
) -> None:
    export_id = await request_export(event_id)
    await run_export(resources, export_id)
    first = await read(export_id)
    await change(live, export_id, state="queued")
    await run_export(resources, export_id)
    again = await read(export_id)
    assert (again["attempts"], again["sha256"]) == (2, first["sha256"])
    assert (await left_behind())["stored files"] == 1


@pytest.mark.parametrize(
    "stopped_at", ["/internal/programmes", "/internal/images/states", "/internal/images/"], ids=str
)
async def test_a_worker_killed_within_an_export_leaves_nothing_half_written(
    live: Live,
    resources: Resources,
    stand_in: Any,
    event_id: UUID,
    request_export: Any,
    read: Any,
    left_behind: LeftBehind,
    stopped_at: str,
) -> None:
    stand_in.reached[stopped_at], stand_in.gates[stopped_at] = asyncio.Event(), asyncio.Event()
    export_id = await request_export(event_id)
    first = asyncio.create_task(run_export(resources, export_id))
    await stand_in.reached[stopped_at].wait()
    first.cancel()
    await asyncio.sleep(0)
    stand_in.gates[stopped_at].set()
    await asyncio.gather(first, return_exceptions=True)
    found = await left_behind()
    assert "stored files" not in found
    await change(live, export_id, state="queued")  # as the sweep does when the lease is over
    await run_export(resources, export_id)
    assert (await read(export_id))["state"] == "done"


async def test_a_follower_of_an_export_sees_it_end(
    live: Live, resources: Resources, tokens: TokenFactory, event_id: UUID, request_export: Any
) -> None:
    export_id = await request_export(event_id)
    path = f"/v1/exports/{export_id}/progress"
    following = asyncio.create_task(live.client.get(path, headers=tokens.organizer()))
    await run_export(resources, export_id)
    lines = [line for line in (await following).text.splitlines() if line.startswith("data: ")]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert (last["state"], last["step"]) == ("done", "checking the archive")


@pytest.mark.main_path
async def test_a_picture_that_is_gone_fails_the_export_by_name_and_leaves_no_file(
    live: Live,
    resources: Resources,
    stand_in: Any,
    event_id: UUID,
    request_export: Any,
    read: Any,
    left_behind: LeftBehind,
) -> None:
    gone = next(iter(stand_in.images))
    export_id = await request_export(event_id)
    del stand_in.images[gone]
    await run_export(resources, export_id)
    export = await read(export_id)
    assert (export["state"], export["error"]["code"]) == ("failed", "picture-missing")
    assert str(gone) in export["error"]["detail"]
    assert export["error"]["image_id"] == str(gone)
    assert "stored files" not in await left_behind()


@pytest.mark.main_path
async def test_a_picture_that_goes_while_the_archive_is_written_fails_the_export(
    live: Live,
    resources: Resources,
    stand_in: Any,
    event_id: UUID,
    request_export: Any,
    read: Any,
    left_behind: LeftBehind,
) -> None:
    last = list(stand_in.images)[-1]
    stand_in.problems[f"/internal/images/{last}/original"] = 404
    export_id = await request_export(event_id)
    await run_export(resources, export_id)
    export = await read(export_id)
    assert (export["state"], export["error"]["code"]) == ("failed", "picture-missing")
    assert str(last) in export["error"]["detail"]
    assert "stored files" not in await left_behind()


async def test_a_picture_that_comes_late_is_waited_for(
    resources: Resources, stand_in: Any, event_id: UUID, request_export: Any, read: Any
) -> None:
    for image_id in stand_in.images:
        stand_in.failures_left[f"/internal/images/{image_id}/original"] = 1
    export_id = await request_export(event_id)
    await run_export(resources, export_id)
    assert (await read(export_id))["state"] == "done"


@pytest.mark.main_path
async def test_an_event_that_tickets_has_not_heard_of_is_exported_without_tickets(
    resources: Resources, stand_in: Any, event_id: UUID, request_export: Any, read: Any
) -> None:
    stand_in.tickets.clear()
    export_id = await request_export(event_id)
    await run_export(resources, export_id)
    assert (await read(export_id))["counts"]["tickets"] == 0


@pytest.mark.main_path
async def test_an_imported_event_comes_out_again_as_it_went_in(
    live: Live,
    resources: Resources,
    tokens: TokenFactory,
    upload: Any,
    zip_of: Any,
    members: Any,
    request_export: Any,
    read: Any,
    tmp_path: Path,
) -> None:
    members["tickets"] = [{"id": 1, "name": "Of the old system"}]
    job = (await upload(zip_of(members))).json()
    await run_import(resources, UUID(job["id"]))
    event_id = (await live.client.get(f"/v1/imports/{job['id']}", headers=tokens.organizer())).json()["event_id"]
    export_id = await request_export(event_id)
    await run_export(resources, export_id)
    path = tmp_path / "again.zip"
    path.write_bytes((await download(live, (await read(export_id))["download_url"])).content)
    with zipfile.ZipFile(path) as archive:
        pictures = sorted(archive.read(name) for name in archive.namelist() if name.startswith("images/"))
        # The picture that two speakers share is there for both.
        shared = members["images/speakers/both.png"]
        wanted = [shared, shared, members["images/logo.png"], members["images/sponsors/bakery.png"]]
        assert pictures == sorted(wanted)
        assert json.loads(archive.read("tickets")) == members["tickets"]
        assert json.loads(archive.read("sponsors"))[1]["logo_url"] == "/images/sponsors/dead.png"


# Links


@pytest.fixture
async def done(resources: Resources, event_id: UUID, request_export: Any) -> UUID:
    export_id: UUID = await request_export(event_id)
    await run_export(resources, export_id)
    return export_id


@pytest.mark.main_path
async def test_download_leads_to_a_fresh_link(live: Live, tokens: TokenFactory, done: UUID) -> None:
    answer = await live.client.get(f"/v1/exports/{done}/download", headers=tokens.organizer())
    assert answer.status_code == 307
    assert answer.headers["location"].startswith("http://gateway.test/v1/exports/files/exports/")
    assert (await download(live, answer.headers["location"])).status_code == 200


@pytest.mark.parametrize("part", ["key", "expires", "filename", "signature"])
async def test_a_link_that_was_changed_opens_nothing(live: Live, done: UUID, read: Any, part: str) -> None:
    link = httpx.URL((await read(done))["download_url"])
    if part == "key":
        changed = link.copy_with(path=link.path.replace(str(done), str(new_id())))
    else:
        value = link.params[part]
        changed = link.copy_set_param(part, str(int(value) + 900) if part == "expires" else value[:-1] + "x")
    answer = await download(live, str(changed))
    assert (answer.status_code, answer.json()["code"]) == (403, "link-invalid")


@pytest.mark.main_path
async def test_a_link_ends_with_its_time_and_not_later_than_its_file(
    live: Live, done: UUID, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = await read(done)
    lifetime = datetime.fromisoformat(export["download_url_expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < lifetime <= timedelta(minutes=15)
    await change(live, done, expires_at=datetime.now(UTC) + timedelta(seconds=90))
    shortened = await read(done)
    link_ends, file_ends = (shortened[name] for name in ("download_url_expires_at", "expires_at"))
    assert datetime.fromisoformat(link_ends) <= datetime.fromisoformat(file_ends)
    monkeypatch.setattr(links, "time", SimpleNamespace(time=lambda: time.time() + 901))
    answer = await download(live, export["download_url"])
    assert (answer.status_code, answer.json()["code"]) == (410, "link-expired")


@pytest.mark.main_path
async def test_an_export_that_is_not_done_has_no_link(
    live: Live, tokens: TokenFactory, event_id: UUID, request_export: Any
) -> None:
    export_id = await request_export(event_id)
    answer = await live.client.get(f"/v1/exports/{export_id}/download", headers=tokens.organizer())
    assert (answer.status_code, answer.json()["code"]) == (409, "export-not-ready")


@pytest.mark.main_path
async def test_the_file_of_an_export_is_deleted_when_its_time_is_over(
    live: Live, tokens: TokenFactory, done: UUID, read: Any, left_behind: LeftBehind
) -> None:
    link = (await read(done))["download_url"]
    await delete_files(live.sessions, settings=live.settings)
    assert (await download(live, link)).status_code == 200
    await change(live, done, expires_at=func.clock_timestamp())
    await delete_files(live.sessions, settings=live.settings)
    await delete_files(live.sessions, settings=live.settings)
    assert "stored files" not in await left_behind()
    export = await read(done)
    assert (export["state"], export["expired"], export["download_url"]) == ("done", True, None)
    answer = await live.client.get(f"/v1/exports/{done}/download", headers=tokens.organizer())
    assert (answer.status_code, answer.json()["code"]) == (410, "export-expired")
    assert (await download(live, link)).status_code == 404


@pytest.mark.main_path
async def test_the_file_of_an_export_that_failed_late_is_deleted_too(
    live: Live, done: UUID, left_behind: LeftBehind
) -> None:
    await change(live, done, state="failed", expires_at=None)
    await delete_files(live.sessions, settings=live.settings)
    assert "stored files" not in await left_behind()


@pytest.mark.main_path
async def test_events_that_can_not_be_asked_are_not_now_and_not_our_fault(
    live: Live, tokens: TokenFactory, stand_in: Any, event_id: UUID
) -> None:
    stand_in.problems["/internal/events"] = 500
    answer = await live.client.post(f"/v1/events/{event_id}/exports", headers=tokens.organizer())
    assert (answer.status_code, answer.json()["code"]) == (503, "service-unavailable")
