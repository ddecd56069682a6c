"""The job of an import: what the peers are asked, once, whatever happens between."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import update

from exports.clients.calls import open_peers
from exports.imports.cleanup import delete_archives
from exports.imports.tasks import run_import
from exports.models import Import
from exports.resources import Resources
from testkit.plugin import Live, TokenFactory

Upload = Callable[..., Awaitable[httpx.Response]]
LeftBehind = Callable[[], Awaitable[dict[str, int]]]


@pytest.fixture
async def import_id(upload: Upload, zip_of: Any, members: Any) -> UUID:
    return UUID((await upload(zip_of(members))).json()["id"])


@pytest.fixture
def read(live: Live, tokens: TokenFactory) -> Callable[[UUID], Awaitable[dict[str, Any]]]:
    async def read(import_id: UUID) -> dict[str, Any]:
        answer = await live.client.get(f"/v1/imports/{import_id}", headers=tokens.organizer())
        found: dict[str, Any] = answer.json()
        return found

    return read


async def lose_the_lease(live: Live, import_id: UUID) -> None:
    """What the sweep does to a job whose worker was killed, when the clock says so."""
    async with live.sessions.begin() as session:
        await session.execute(update(Import).where(Import.id == import_id).values(state="queued"))


@pytest.mark.main_path
@pytest.mark.parametrize("storage_place", ["local", "s3"])
async def test_an_import_makes_an_event_with_its_pictures(
    live: Live, resources: Resources, stand_in: Any, import_id: UUID, read: Any, temporary_files: Any
) -> None:
    await run_import(resources, import_id)
    job = await read(import_id)
    assert (job["state"], job["error"], job["attempts"]) == ("done", None, 1)
    assert job["event_id"] == str(stand_in.event_of_import[str(import_id)])
    assert job["event_identifier"] == "k3x9q0ab"
    assert (job["counts"]["sessions"], job["counts"]["speakers"], job["counts"]["images"]) == (1, 2, 3)
    assert (job["step"], job["done"], job["total"]) == ("converting images", 3, 3)

    images = {image.name: image for image in stand_in.images.values()}
    assert {name: image.kind for name, image in images.items()} == {
        "images/logo.png": "event",
        "images/speakers/both.png": "speaker",
        "images/sponsors/bakery.png": "sponsor",
    }
    assert images["images/speakers/both.png"].content.endswith(b"both")
    assert {(image.organizer, image.import_id) for image in images.values()} == {("acme", str(import_id))}

    body = stand_in.programmes[str(import_id)]
    assert body["organizer"] == "acme"
    sent = body["programme"]
    assert sent["event"]["logo"]["image_id"] == str(images["images/logo.png"].image_id)
    shared_picture = str(images["images/speakers/both.png"].image_id)
    assert [speaker["photo"]["image_id"] for speaker in sent["speakers"]] == [shared_picture] * 2
    assert sent["sponsors"][1]["extra"]["logo_url"] == "/images/sponsors/dead.png"

    by_member = {repair["member"]: repair for repair in job["repairs"]}
    assert "dead.png" in by_member["sponsors"]["message"]  # of the reader
    assert by_member["sessions"]["message"] == "Shortened."  # of events
    assert temporary_files() == []


@pytest.mark.main_path
async def test_the_archive_is_deleted_when_the_import_is_done(
    live: Live, resources: Resources, import_id: UUID, left_behind: LeftBehind
) -> None:
    await delete_archives(live.sessions, settings=live.settings)
    assert (await left_behind())["stored files"] == 1, "not before it is done"
    await run_import(resources, import_id)
    await delete_archives(live.sessions, settings=live.settings)
    await delete_archives(live.sessions, settings=live.settings)
    assert "stored files" not in await left_behind()


@pytest.mark.main_path
async def test_pictures_that_media_refuses_are_told_and_the_rest_is_imported(
    resources: Resources, stand_in: Any, import_id: UUID, read: Any
) -> None:
    stand_in.refused_images = {"images/speakers/both.png": 422, "images/logo.png": 413}
    await run_import(resources, import_id)
    job = await read(import_id)
    assert job["state"] == "done"
    lines = {repair["member"]: repair["message"] for repair in job["repairs"]}
    assert "speakers/1, speakers/2" in lines["images/speakers/both.png"]
    assert "This is no picture." in lines["images/speakers/both.png"]
    sent = stand_in.programmes[str(import_id)]["programme"]
    assert sent["speakers"][0]["photo"] is None
    assert sent["speakers"][0]["extra"]["photo_url"] == "/images/speakers/both.png"
    assert sent["event"]["logo"] is None
    assert sent["sponsors"][0]["logo"]["image_id"]


@pytest.mark.main_path
async def test_pictures_that_can_not_be_converted_are_told_and_keep_their_place(
    resources: Resources, stand_in: Any, import_id: UUID, read: Any
) -> None:
    stand_in.states_of_images = {"images/logo.png": "rejected"}
    await run_import(resources, import_id)
    job = await read(import_id)
    assert job["state"] == "done"
    assert [repair["member"] for repair in job["repairs"]].count("images/logo.png") == 1
    assert stand_in.programmes[str(import_id)]["programme"]["event"]["logo"]["image_id"]


async def test_an_import_ends_although_pictures_are_still_converted(
    resources: Resources, stand_in: Any, import_id: UUID, read: Any
) -> None:
    stand_in.states_of_images = {"images/logo.png": "processing"}
    await run_import(replace(resources, conversion_patience=0.0), import_id)
    job = await read(import_id)
    assert (job["state"], job["done"], job["total"]) == ("done", 2, 3)
    assert "still being converted" in job["repairs"][-1]["message"]


async def test_a_picture_that_is_damaged_in_the_zip_is_told(
    live: Live, resources: Resources, upload: Upload, zip_of: Any, members: Any, read: Any
) -> None:
    members["images/logo.png"] = bytes(range(256)) * 40
    content = bytearray(zip_of(members))
    at = content.index(b"images/logo.png") + len("images/logo.png") + 5
    content[at : at + 20] = b"x" * 20
    import_id = UUID((await upload(bytes(content))).json()["id"])
    await run_import(resources, import_id)
    job = await read(import_id)
    assert job["state"] == "done", job
    assert "damaged in the zip" in next(r["message"] for r in job["repairs"] if r["member"] == "images/logo.png")


@pytest.mark.main_path
async def test_at_most_six_pictures_are_uploaded_at_once(
    resources: Resources, stand_in: Any, upload: Upload, zip_of: Any, members: Any
) -> None:
    for number in range(30):
        name = f"images/speakers/{number}.png"
        members["speakers"].append({"id": 10 + number, "name": f"S{number}", "photo_url": f"/{name}"})
        members[name] = b"picture %d" % number
    import_id = UUID((await upload(zip_of(members))).json()["id"])
    await run_import(resources, import_id)
    assert len(stand_in.images) == 33
    assert 1 < stand_in.most_at_once <= 6


@pytest.mark.main_path
async def test_two_starts_of_one_import_ask_for_one_event(
    resources: Resources, stand_in: Any, import_id: UUID, read: Any
) -> None:
    await asyncio.gather(run_import(resources, import_id), run_import(resources, import_id))
    await run_import(resources, import_id)
    assert stand_in.count("POST", "/internal/programmes") == 1
    assert (await read(import_id))["attempts"] == 1


@pytest.mark.parametrize("stopped_at", ["/internal/images", "/internal/programmes", "/internal/images/states"])
async def test_a_worker_killed_between_steps_leaves_an_import_that_ends_with_one_event(
    live: Live, resources: Resources, stand_in: Any, import_id: UUID, read: Any, stopped_at: str
) -> None:
    stand_in.reached[stopped_at] = asyncio.Event()
    stand_in.gates[stopped_at] = asyncio.Event()
    first = asyncio.create_task(run_import(resources, import_id))
    await stand_in.reached[stopped_at].wait()
    first.cancel()  # a killed process tells nobody: the job stays "running" until its lease is over
    await asyncio.gather(first, return_exceptions=True)
    assert (await read(import_id))["state"] == "running"
    await lose_the_lease(live, import_id)
    stand_in.gates.clear()

    await run_import(resources, import_id)
    job = await read(import_id)
    assert (job["state"], job["attempts"]) == ("done", 2)
    assert len(stand_in.event_of_import) == 1
    assert len(stand_in.images) == 3, "each picture once, over both attempts"
    assert job["event_id"] == str(stand_in.event_of_import[str(import_id)])


async def test_a_refusal_of_events_fails_the_import_with_the_same_words(
    live: Live, resources: Resources, stand_in: Any, import_id: UUID, read: Any, left_behind: LeftBehind
) -> None:
    stand_in.problems["/internal/programmes"] = 422
    await run_import(resources, import_id)
    job = await read(import_id)
    assert (job["state"], job["event_id"]) == ("failed", None)
    assert (job["error"]["status"], job["error"]["code"]) == (422, "not-an-image")
    assert job["error"]["detail"] == "Says the other service."
    await delete_archives(live.sessions, settings=live.settings)
    assert "stored files" not in await left_behind()


async def test_a_peer_that_is_busy_for_a_moment_is_asked_again(
    resources: Resources, stand_in: Any, import_id: UUID, read: Any
) -> None:
    stand_in.failures_left["/internal/programmes"] = 2
    stand_in.failures_left["/internal/images"] = 1
    await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "done"
    assert len(stand_in.event_of_import) == 1


class Unreachable(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)


async def test_an_import_waits_while_a_peer_is_down_and_its_attempt_does_not_count(
    live: Live, resources: Resources, import_id: UUID, read: Any
) -> None:
    async with open_peers(live.settings, transport=Unreachable()) as nobody:
        alone = Resources(live.settings, live.engine, live.sessions, resources.storage, nobody)
        await run_import(alone, import_id)
    job = await read(import_id)
    assert (job["state"], job["attempts"], job["error"]) == ("queued", 0, None)
    await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "done"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_peer_that_does_not_know_us_is_no_verdict_on_the_import(
    resources: Resources, stand_in: Any, import_id: UUID, read: Any, status: int
) -> None:
    stand_in.problems["/internal/programmes"] = status
    await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "queued"


async def test_a_peer_that_fails_is_tried_again_by_the_sweep(
    live: Live, resources: Resources, stand_in: Any, import_id: UUID, read: Any
) -> None:
    stand_in.problems["/internal/programmes"] = 500
    with pytest.raises(Exception, match="500"):
        await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "running"
    stand_in.problems.clear()
    await lose_the_lease(live, import_id)
    await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "done"
