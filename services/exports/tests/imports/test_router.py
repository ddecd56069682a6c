"""Imports over HTTP: a good archive becomes a job, a bad one is refused by name and leaves nothing."""

import io
import json
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select, text

from exports.models import Import
from services.exports.tests.factories import (
    EVENT,
    LeftBehind,
    Members,
    Upload,
    request_scope,
    set_progress,
    with_event,
    zipped,
)
from shared.messaging.tables import OUTBOX
from shared.storage.transit import FILES_IN_TRANSIT, discard_forgotten
from testkit.plugin import Live, TokenFactory


def bomb() -> bytes:
    """Return 300 MB of zeros in 300 KB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("event", json.dumps(EVENT))
        with archive.open("sessions", "w") as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    return file.getvalue()


def bomb_with_false_size() -> bytes:
    """Return the same with a declared size of 100 bytes."""
    data = bytearray(bomb())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    return bytes(data)


BAD: dict[str, tuple[bytes, int, str, str]] = {
    "not a zip": (b"hello, this is no zip", 422, "not-a-zip", "archive"),
    "nothing": (b"", 422, "not-a-zip", "archive"),
    "half a zip": (with_event()[:150], 422, "not-a-zip", "archive"),
    "no event": (zipped({"sessions": []}), 422, "event-missing", "event"),
    "broken JSON in one member": (
        zipped({"event": EVENT, "speakers": b'[{"id": 1,}]'}),
        422,
        "member-broken",
        "speakers",
    ),
    "a path that climbs out": (
        zipped({"event": EVENT, "../../etc/passwd": b"x"}),
        422,
        "unsafe-member-name",
        "../../etc/passwd",
    ),
    "a bomb": (bomb(), 413, "archive-too-large", "sessions"),
    "a bomb with a false size": (bomb_with_false_size(), 422, "member-broken", "sessions"),
    "an unknown zone": (with_event(timezone="Mars/Olympus"), 422, "unknown-zone", "event.timezone"),
    "an end before the start": (
        with_event(ends_at="2027-10-29T09:00:00+02:00"),
        422,
        "ends-before-it-starts",
        "event.ends_at",
    ),
    "a gap time": (with_event(starts_at="2027-03-28T02:30"), 422, "time-in-gap", "event.starts_at"),
}


@pytest.mark.main_path
async def test_good_archive_is_stored_and_becomes_a_job(
    live: Live, upload: Upload, members: Members, left_behind: LeftBehind
) -> None:
    content = zipped(members)
    answer = await upload(content, name="C:\\talks\\night.zip")
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/imports/{job['id']}"
    assert (job["state"], job["file_name"], job["size"]) == ("queued", "night.zip", len(content))
    assert job["repairs"] == []
    async with live.sessions() as session:
        row = await session.get_one(Import, UUID(job["id"]))
        trigger = (await session.execute(select(OUTBOX))).one()
    assert (trigger.type, trigger.payload) == ("exports.run_import", {"queue": "exports.jobs", "job_id": job["id"]})
    assert row.archive_key is not None
    assert "night" not in row.archive_key
    assert "acme" not in row.archive_key
    assert b"".join([chunk async for chunk in live.app.state.storage.read(row.archive_key)]) == content
    assert await left_behind() == {"stored files": 1, "imports": 1, "outbox": 1}


@pytest.mark.parametrize("kind", BAD)
async def test_bad_archive_is_refused_by_name_and_leaves_nothing(
    upload: Upload, left_behind: LeftBehind, kind: str
) -> None:
    content, status, code, field = BAD[kind]
    answer = await upload(content, key="once")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in [error["field"] for error in problem["errors"]]
    assert problem["detail"].endswith(".")
    assert await left_behind() == {}


async def test_refusal_of_a_gap_time_holds_the_alternatives(upload: Upload) -> None:
    problem = (await upload(with_event(starts_at="2027-03-28T02:30"))).json()
    assert problem["errors"][0]["alternatives"]


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415, "form-missing"),
        ({"Content-Type": "application/zip"}, with_event(), 415, "form-missing"),
        ({}, b"", 415, "form-missing"),
        ({"Content-Type": "multipart/form-data"}, b"x", 422, "form-unreadable"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--c\r\nx", 422, "form-unreadable"),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n',
            422,
            "invalid",
        ),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="zip"; filename="a"\r\n\r\ntext\r\n--b--\r\n',
            422,
            "invalid",
        ),
    ],
)
async def test_body_other_than_a_form_with_a_file_is_refused(
    live: Live,
    tokens: TokenFactory,
    left_behind: LeftBehind,
    headers: dict[str, str],
    content: bytes,
    status: int,
    code: str,
) -> None:
    answer = await live.client.post("/v1/imports", content=content, headers=headers | tokens.organizer())
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert await left_behind() == {}


@pytest.mark.parametrize("is_declared", [True, False])
async def test_archive_over_the_limit_is_refused_with_the_limit_and_leaves_nothing(
    live: Live, tokens: TokenFactory, left_behind: LeftBehind, is_declared: bool
) -> None:
    live.app.state.settings = live.settings.model_copy(update={"max_archive_size": 100_000})
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield head
        while sent < 50_000_000:
            sent += 50_000
            yield bytes(50_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"} | tokens.organizer()
    if is_declared:
        headers["Content-Length"] = str(50_000_000)
    answer = await live.client.post("/v1/imports", content=endless(), headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (413, "archive-file-too-large")
    assert "100,000 bytes" in problem["detail"]
    assert problem["errors"][0]["max_size"] == 100_000
    assert sent < 1_000_000
    assert await left_behind() == {}


async def test_interrupted_upload_leaves_nothing(live: Live, tokens: TokenFactory, left_behind: LeftBehind) -> None:
    messages = [
        {
            "type": "http.request",
            "body": b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
            + bytes(3 << 20),
            "more_body": True,
        },
        {"type": "http.disconnect"},
    ]
    answers: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answers.append(message)

    headers = {"content-type": "multipart/form-data; boundary=b"} | tokens.organizer()
    await live.app(request_scope("/v1/imports", "POST", headers), receive, send)
    assert answers[0]["status"] == 400
    assert await left_behind() == {}


async def test_upload_without_a_token_is_refused(live: Live, left_behind: LeftBehind) -> None:
    received = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal received
        received += 1
        yield b"x"

    answer = await live.client.post("/v1/imports", content=content())
    assert answer.status_code == 401
    assert await left_behind() == {}


async def test_failed_commit_leaves_nothing(
    live: Live, upload: Upload, members: Members, left_behind: LeftBehind
) -> None:
    async with live.engine.begin() as connection:
        await connection.execute(
            text("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$")
        )
        await connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON imports DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )
    assert (await upload(zipped(members))).status_code == 500
    assert await left_behind() == {}


@pytest.mark.main_path
async def test_upload_repeated_with_its_idempotency_key_is_one_import(
    upload: Upload, members: Members, left_behind: LeftBehind
) -> None:
    content = zipped(members)
    first = await upload(content, key="abc")
    again = await upload(content, key="abc")
    assert again.status_code == 202
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    other = await upload(with_event(), key="abc")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert await left_behind() == {"stored files": 1, "imports": 1, "idempotency_keys": 1, "outbox": 1}


async def test_file_stored_by_a_killed_process_is_deleted_after_a_day(live: Live, left_behind: LeftBehind) -> None:
    storage = live.app.state.storage
    for key, age in (("imports/x/old.zip", timedelta(days=2)), ("imports/x/new.zip", timedelta(minutes=1))):
        await storage.put(key, b"x", content_type="application/zip")
        async with live.sessions.begin() as session:
            await session.execute(insert(FILES_IN_TRANSIT).values(key=key, created_at=datetime.now(UTC) - age))
    await discard_forgotten(live.sessions, settings=live.settings)
    assert await left_behind() == {"stored files": 1, "files_in_transit": 1}
    assert await storage.size("imports/x/new.zip") == 1


@pytest.mark.main_path
async def test_imports_are_listed_newest_first_without_their_reports(
    live: Live, tokens: TokenFactory, upload: Upload
) -> None:
    made = [(await upload(with_event(name=f"Event {number}"))).json()["id"] for number in range(3)]
    page = await live.client.get("/v1/imports?limit=2", headers=tokens.organizer())
    assert [job["id"] for job in page.json()["items"]] == made[:0:-1]
    assert "repairs" not in page.json()["items"][0]
    following = page.links["next"]["url"]
    rest = (await live.client.get(following, headers=tokens.organizer())).json()
    assert [job["id"] for job in rest["items"]] == made[:1]
    assert rest["next_cursor"] is None


@pytest.mark.main_path
async def test_unchanged_import_is_answered_with_304(live: Live, tokens: TokenFactory, upload: Upload) -> None:
    job = await upload(with_event())
    path = job.headers["location"]
    tag = job.headers["etag"]
    same = await live.client.get(path, headers=tokens.organizer() | {"If-None-Match": tag})
    assert (same.status_code, same.content) == (304, b"")
    await set_progress(live, job.json()["id"], state="running", step="uploading images", done=1, total=9)
    changed = await live.client.get(path, headers=tokens.organizer() | {"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
