"""Exports over HTTP: requested, listed, followed and downloaded by a signed link."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select

from exports.exports.rules import FILES_PATH, ZIP, file_key
from exports.exports.tasks import run_export
from exports.resources import Resources
from services.exports.tests.exports.factories import ExportedEvent, change, download
from services.exports.tests.factories import ReadJob, RequestExport
from services.exports.tests.peers import Network, Peers
from shared.ids import new_id
from shared.messaging.tables import OUTBOX
from shared.storage.links import SigningKeys, sign_link
from testkit.plugin import Live, TokenFactory


@pytest.mark.main_path
async def test_request_becomes_a_job_with_a_location(
    live: Live, tokens: TokenFactory, event: ExportedEvent, read: ReadJob
) -> None:
    answer = await live.client.post(f"/v1/events/{event.id}/exports", headers=tokens.organizer())
    assert answer.status_code == 202
    export = answer.json()
    assert answer.headers["location"] == f"/v1/exports/{export['id']}"
    assert (export["state"], export["event_id"]) == ("queued", str(event.id))
    assert (export["download_url"], export["size"], export["expired"]) == (None, None, False)
    assert await read(UUID(export["id"])) == export
    async with live.sessions() as session:
        trigger = (await session.execute(select(OUTBOX))).one()
    assert (trigger.type, trigger.payload["queue"]) == ("exports.run_export", "exports.jobs")


async def test_event_may_be_named_by_its_identifier(
    live: Live, tokens: TokenFactory, peers: Peers, event: ExportedEvent
) -> None:
    identifier = (await peers.exported(event.id)).event.identifier
    export = await live.client.post(f"/v1/events/{identifier}/exports", headers=tokens.organizer())
    assert (export.status_code, export.json()["event_id"]) == (202, str(event.id))
    for reference in (identifier, event.id):
        listed = await live.client.get(f"/v1/events/{reference}/exports", headers=tokens.organizer())
        assert [item["id"] for item in listed.json()["items"]] == [export.json()["id"]]


@pytest.mark.parametrize("reference", ["zzzzzzzz", "..", "%2e%2e", "a b", "x" * 37, "%00", str(UUID(int=1))])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_reference_to_no_event_is_not_found(
    live: Live, tokens: TokenFactory, network: Network, method: str, reference: str
) -> None:
    answer = await live.client.request(method, f"/v1/events/{reference}/exports", headers=tokens.organizer())
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


@pytest.mark.main_path
async def test_request_repeated_with_its_idempotency_key_is_one_export(
    live: Live, tokens: TokenFactory, event: ExportedEvent
) -> None:
    headers = tokens.organizer() | {"Idempotency-Key": "abc"}
    first, second = [await live.client.post(f"/v1/events/{event.id}/exports", headers=headers) for _ in range(2)]
    assert first.json() == second.json()
    listed = await live.client.get(f"/v1/events/{event.id}/exports", headers=tokens.organizer())
    assert len(listed.json()["items"]) == 1


@pytest.mark.main_path
async def test_export_is_unavailable_while_the_events_service_fails(
    live: Live, tokens: TokenFactory, network: Network, event: ExportedEvent
) -> None:
    network.statuses["/internal/events"] = 500
    answer = await live.client.post(f"/v1/events/{event.id}/exports", headers=tokens.organizer())
    assert (answer.status_code, answer.json()["code"]) == (503, "service-unavailable")


async def test_follower_of_an_export_sees_its_end(
    live: Live, resources: Resources, tokens: TokenFactory, event: ExportedEvent, request_export: RequestExport
) -> None:
    export_id = await request_export(event.id)
    path = f"/v1/exports/{export_id}/progress"
    following = asyncio.create_task(live.client.get(path, headers=tokens.organizer()))
    await run_export(resources, export_id)
    lines = [line for line in (await following).text.splitlines() if line.startswith("data: ")]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert (last["state"], last["step"]) == ("done", "checking the archive")


# Links


@pytest.mark.main_path
async def test_download_redirects_to_a_new_link(live: Live, tokens: TokenFactory, done: UUID) -> None:
    answer = await live.client.get(f"/v1/exports/{done}/download", headers=tokens.organizer())
    assert answer.status_code == 307
    assert answer.headers["location"].startswith("http://gateway.test/v1/exports/files/exports/")
    assert (await download(live, answer.headers["location"])).status_code == 200


@pytest.mark.parametrize("part", ["key", "expires", "filename", "signature"])
async def test_changed_link_is_refused(live: Live, done: UUID, read: ReadJob, part: str) -> None:
    link = httpx.URL((await read(done))["download_url"])
    if part == "key":
        changed = link.copy_with(path=link.path.replace(str(done), str(new_id())))
    else:
        value = link.params[part]
        changed = link.copy_set_param(part, str(int(value) + 900) if part == "expires" else value[:-1] + "x")
    answer = await download(live, str(changed))
    assert (answer.status_code, answer.json()["code"]) == (403, "link-invalid")


@pytest.mark.main_path
async def test_link_expires_after_its_lifetime_and_not_later_than_its_file(
    live: Live, done: UUID, read: ReadJob
) -> None:
    export = await read(done)
    lifetime = datetime.fromisoformat(export["download_url_expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < lifetime <= timedelta(minutes=15)
    await change(live, done, expires_at=datetime.now(UTC) + timedelta(seconds=90))
    shortened = await read(done)
    link_ends, file_ends = (shortened[name] for name in ("download_url_expires_at", "expires_at"))
    assert datetime.fromisoformat(link_ends) <= datetime.fromisoformat(file_ends)


@pytest.mark.main_path
async def test_expired_link_is_refused(live: Live, done: UUID) -> None:
    keys = SigningKeys.parse(live.settings.storage_signing_key.get_secret_value())
    key = file_key("acme", done)
    for seconds, status in ((60, 200), (0, 410)):
        expires_at = int(time.time()) + seconds
        query = sign_link(keys, key, expires_at=expires_at, filename="a.zip", content_type=ZIP)
        answer = await live.client.get(f"{FILES_PATH}/{key}?{query}")
        assert answer.status_code == status
    assert answer.json()["code"] == "link-expired"


@pytest.mark.main_path
async def test_unfinished_export_has_no_link(
    live: Live, tokens: TokenFactory, event: ExportedEvent, request_export: RequestExport
) -> None:
    export_id = await request_export(event.id)
    answer = await live.client.get(f"/v1/exports/{export_id}/download", headers=tokens.organizer())
    assert (answer.status_code, answer.json()["code"]) == (409, "export-not-ready")
