"""The job of an import: one event with its images, whatever interrupts it."""

import asyncio
import random
from dataclasses import replace
from uuid import UUID

import httpx
import pytest
from sqlalchemy import update

from exports.clients.calls import PeerFailed, open_peers
from exports.imports.cleanup import delete_archives
from exports.imports.tasks import run_import
from exports.models import Import
from exports.resources import Resources
from services.exports.tests.factories import LeftBehind, Members, ReadJob, TemporaryFiles, Upload, zipped
from services.exports.tests.peers import MAX_IMAGE_SIZE, Network, Peers
from services.media.tests.factories import png, png_claiming
from testkit.plugin import Live


async def lose_the_lease(live: Live, import_id: UUID) -> None:
    """Queue the job as the periodic task does after its worker was killed and the lease has expired."""
    async with live.sessions.begin() as session:
        await session.execute(update(Import).where(Import.id == import_id).values(state="queued"))


async def uploaded(upload: Upload, members: Members) -> UUID:
    return UUID((await upload(zipped(members))).json()["id"])


@pytest.mark.main_path
@pytest.mark.parametrize("place", ["local", "s3"])
async def test_import_creates_an_event_with_its_images(
    resources: Resources, peers: Peers, import_id: UUID, read: ReadJob, temporary_files: TemporaryFiles
) -> None:
    await run_import(resources, import_id)
    job = await read(import_id)
    assert (job["state"], job["error"], job["attempts"]) == ("done", None, 1)
    [event] = await peers.events_of(import_id)
    assert (job["event_id"], job["event_identifier"]) == (str(event.id), event.identifier)
    assert event.organizer == "acme"
    assert (job["counts"]["sessions"], job["counts"]["speakers"], job["counts"]["images"]) == (1, 2, 3)
    assert (job["step"], job["done"], job["total"]) == ("converting images", 3, 3)

    images = await peers.images_of(import_id)
    assert {name: (image.kind, image.organizer, image.state) for name, image in images.items()} == {
        "images/logo.png": ("event", "acme", "done"),
        "images/speakers/both.png": ("speaker", "acme", "done"),
        "images/sponsors/bakery.png": ("sponsor", "acme", "done"),
    }
    shared = images["images/speakers/both.png"]
    assert (await peers.original(shared)).endswith(b"both")

    programme = await peers.exported(event.id)
    assert programme.event.logo is not None
    assert programme.event.logo.image_id == images["images/logo.png"].id
    assert [speaker.photo and speaker.photo.image_id for speaker in programme.speakers] == [shared.id] * 2
    assert programme.sponsors[1].extra["logo_url"] == "/images/sponsors/dead.png"

    by_member = {repair["member"]: repair for repair in job["repairs"]}
    assert "dead.png" in by_member["sponsors"]["message"]  # reported by the reader
    assert by_member["event"]["field"] == "state"  # reported by the events service
    assert temporary_files() == []


@pytest.mark.main_path
async def test_refused_images_are_reported_and_the_rest_is_imported(
    resources: Resources, peers: Peers, upload: Upload, members: Members, read: ReadJob
) -> None:
    members["images/speakers/both.png"] = b"not an image"
    members["images/logo.png"] = png(40, 30) + random.Random(0).randbytes(MAX_IMAGE_SIZE)
    import_id = await uploaded(upload, members)
    await run_import(resources, import_id)
    job = await read(import_id)
    assert job["state"] == "done"
    lines = {repair["member"]: repair["message"] for repair in job["repairs"]}
    assert "speakers/1, speakers/2" in lines["images/speakers/both.png"]
    assert "images/logo.png" in lines
    programme = await peers.exported(job["event_id"])
    assert programme.speakers[0].photo is None
    assert programme.speakers[0].extra["photo_url"] == "/images/speakers/both.png"
    assert programme.event.logo is None
    assert programme.sponsors[0].logo is not None
    assert programme.sponsors[0].logo.image_id


@pytest.mark.main_path
async def test_images_that_cannot_be_converted_are_reported_and_kept(
    resources: Resources, peers: Peers, upload: Upload, members: Members, read: ReadJob
) -> None:
    members["images/logo.png"] = png_claiming(40, 30)
    import_id = await uploaded(upload, members)
    await run_import(resources, import_id)
    job = await read(import_id)
    assert job["state"] == "done"
    assert [repair["member"] for repair in job["repairs"]].count("images/logo.png") == 1
    programme = await peers.exported(job["event_id"])
    assert programme.event.logo is not None
    assert programme.event.logo.image_id


async def test_import_waits_for_the_conversion_of_its_images(
    resources: Resources, peers: Peers, network: Network, import_id: UUID, read: ReadJob
) -> None:
    peers.converts = False
    reached = network.reached["/internal/images/states"] = asyncio.Event()
    running = asyncio.create_task(run_import(resources, import_id))
    await reached.wait()
    assert (await read(import_id))["state"] == "running"
    for image in (await peers.images_of(import_id)).values():
        await peers.convert(image.id)
    await running
    job = await read(import_id)
    assert (job["state"], job["done"], job["total"]) == ("done", 3, 3)


async def test_import_ends_although_images_are_still_being_converted(
    resources: Resources, peers: Peers, import_id: UUID, read: ReadJob
) -> None:
    peers.converts = False
    await run_import(replace(resources, conversion_patience=0.0), import_id)
    job = await read(import_id)
    assert (job["state"], job["done"], job["total"]) == ("done", 0, 3)
    assert "still being converted" in job["repairs"][-1]["message"]


async def test_image_that_is_damaged_in_the_zip_is_reported(
    resources: Resources, upload: Upload, members: Members, read: ReadJob
) -> None:
    members["images/logo.png"] = bytes(range(256)) * 40
    content = bytearray(zipped(members))
    at = content.index(b"images/logo.png") + len("images/logo.png") + 5
    content[at : at + 20] = b"x" * 20
    import_id = UUID((await upload(bytes(content))).json()["id"])
    await run_import(resources, import_id)
    job = await read(import_id)
    assert job["state"] == "done", job
    assert "damaged in the zip" in next(r["message"] for r in job["repairs"] if r["member"] == "images/logo.png")


@pytest.mark.main_path
async def test_at_most_six_images_are_uploaded_at_once(
    resources: Resources, peers: Peers, network: Network, upload: Upload, members: Members
) -> None:
    peers.converts = False
    for number in range(30):
        name = f"images/speakers/{number}.png"
        members["speakers"].append({"id": 10 + number, "name": f"S{number}", "photo_url": f"/{name}"})
        members[name] = png(40, 30) + b"%d" % number
    import_id = await uploaded(upload, members)
    await run_import(replace(resources, conversion_patience=0.0), import_id)
    assert len(await peers.images_of(import_id)) == 33
    assert 1 < network.most_in_flight["/internal/images"] <= 6


@pytest.mark.main_path
async def test_two_starts_of_one_import_send_one_programme(
    resources: Resources, network: Network, import_id: UUID, read: ReadJob
) -> None:
    await asyncio.gather(run_import(resources, import_id), run_import(resources, import_id))
    await run_import(resources, import_id)
    assert network.requests.count(("POST", "/internal/programmes")) == 1
    assert (await read(import_id))["attempts"] == 1


@pytest.mark.parametrize("stopped_at", ["/internal/images", "/internal/programmes", "/internal/images/states"])
async def test_import_whose_worker_is_killed_between_steps_ends_with_one_event(
    live: Live,
    resources: Resources,
    peers: Peers,
    network: Network,
    import_id: UUID,
    read: ReadJob,
    stopped_at: str,
) -> None:
    reached = network.stop_at(stopped_at)
    first = asyncio.create_task(run_import(resources, import_id))
    await reached.wait()
    first.cancel()  # like a killed process, it leaves the job "running" until the lease expires
    await asyncio.gather(first, return_exceptions=True)
    assert (await read(import_id))["state"] == "running"
    await lose_the_lease(live, import_id)
    network.gates.clear()

    await run_import(resources, import_id)
    job = await read(import_id)
    assert (job["state"], job["attempts"]) == ("done", 2)
    assert [str(event.id) for event in await peers.events_of(import_id)] == [job["event_id"]]
    assert len(await peers.images_of(import_id)) == 3, "each image once, over both attempts"


async def test_refusal_of_the_events_service_fails_the_import_with_the_same_words(
    live: Live, resources: Resources, network: Network, import_id: UUID, read: ReadJob, left_behind: LeftBehind
) -> None:
    network.statuses["/internal/programmes"] = 422
    await run_import(resources, import_id)
    job = await read(import_id)
    assert (job["state"], job["event_id"]) == ("failed", None)
    assert (job["error"]["status"], job["error"]["code"]) == (422, "refused-by-peer")
    assert job["error"]["detail"] == "The peer refuses it. Do not repeat it."
    await delete_archives(live.sessions, settings=live.settings)
    assert "stored files" not in await left_behind()


async def test_import_fails_by_name_rather_than_lose_what_an_older_peer_does_not_know(
    resources: Resources, peers: Peers, network: Network, import_id: UUID, read: ReadJob
) -> None:
    network.later["/internal/images"] = {"alt": "A logo"}
    await run_import(resources, import_id)
    job = await read(import_id)
    assert (job["state"], job["error"]["code"]) == ("failed", "invalid")
    assert job["error"]["errors"][0]["field"] == "query.alt"
    assert await peers.events_of(import_id) == []


async def test_peer_that_is_busy_for_a_moment_is_called_again(
    resources: Resources, peers: Peers, network: Network, import_id: UUID, read: ReadJob
) -> None:
    network.busy["/internal/programmes"] = 2
    network.busy["/internal/images"] = 1
    await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "done"
    assert len(await peers.events_of(import_id)) == 1


class Unreachable(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)


async def test_import_is_queued_again_while_a_peer_is_unreachable_and_its_attempt_does_not_count(
    live: Live, resources: Resources, import_id: UUID, read: ReadJob
) -> None:
    async with open_peers(live.settings, transport=Unreachable(), pauses=(0.0,)) as nobody:
        await run_import(replace(resources, peers=nobody), import_id)
    job = await read(import_id)
    assert (job["state"], job["attempts"], job["error"]) == ("queued", 0, None)
    await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "done"


@pytest.mark.parametrize("status", [401, 403])
async def test_import_is_queued_again_when_a_peer_refuses_the_services_token(
    resources: Resources, network: Network, import_id: UUID, read: ReadJob, status: int
) -> None:
    network.statuses["/internal/programmes"] = status
    await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "queued"


async def test_import_whose_peer_fails_stays_running_until_it_is_queued_again(
    live: Live, resources: Resources, network: Network, import_id: UUID, read: ReadJob
) -> None:
    network.statuses["/internal/programmes"] = 500
    with pytest.raises(PeerFailed, match="500"):
        await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "running"
    network.statuses.clear()
    await lose_the_lease(live, import_id)
    await run_import(resources, import_id)
    assert (await read(import_id))["state"] == "done"
