"""Archives over HTTP: good ones become jobs, bad ones are refused by name and leave nothing behind."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import insert, select, text

from exports.models import Import
from shared.messaging.tables import OUTBOX
from shared.storage.transit import FILES_IN_TRANSIT, discard_forgotten
from testkit.plugin import Live, TokenFactory

Upload = Callable[..., Awaitable[httpx.Response]]
LeftBehind = Callable[[], Awaitable[dict[str, int]]]
GOOD_EVENT = {
    "id": 7,
    "name": "Long night",
    "timezone": "Europe/Berlin",
    "starts_at": "2027-10-30T09:00:00+02:00",
    "ends_at": "2027-10-31T18:00:00+01:00",
}


def zipped(members: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return file.getvalue()


def with_event(**changes: Any) -> bytes:
    return zipped({"event": {**GOOD_EVENT, **changes}})


def bomb() -> bytes:
    """Zeros, 300 MB of them in 300 KB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("event", json.dumps(GOOD_EVENT))
        with archive.open("sessions", "w") as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    return file.getvalue()


def one_that_lies_about_its_size() -> bytes:
    """The same, while the zip says that the member has 100 bytes."""
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
        zipped({"event": GOOD_EVENT, "speakers": b'[{"id": 1,}]'}),
        422,
        "member-broken",
        "speakers",
    ),
    "a path that climbs out": (
        zipped({"event": GOOD_EVENT, "../../etc/passwd": b"x"}),
        422,
        "unsafe-member-name",
        "../../etc/passwd",
    ),
    "a bomb": (bomb(), 413, "archive-too-large", "sessions"),
    "a bomb that lies": (one_that_lies_about_its_size(), 422, "member-broken", "sessions"),
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
async def test_a_good_archive_is_stored_and_becomes_a_job(
    live: Live, upload: Upload, zip_of: Any, members: Any, left_behind: LeftBehind
) -> None:
    content = zip_of(members)
    answer = await upload(content, name="C:\\talks\\night.zip")
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/imports/{job['id']}"
    assert (job["state"], job["file_name"], job["size"]) == ("queued", "night.zip", len(content))
    assert job["repairs"] == []
    async with live.sessions() as session:
        row = await session.get_one(Import, UUID(job["id"]))
        hint = (await session.execute(select(OUTBOX))).one()
    assert (hint.type, hint.payload) == ("exports.run_import", {"queue": "exports.jobs", "job_id": job["id"]})
    assert row.archive_key is not None
    assert "night" not in row.archive_key
    assert "acme" not in row.archive_key
    assert b"".join([chunk async for chunk in live.app.state.storage.read(row.archive_key)]) == content
    assert await left_behind() == {"stored files": 1, "imports": 1, "outbox": 1}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_archive_is_refused_by_name_and_leaves_nothing_behind(
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


async def test_the_alternatives_of_a_gap_time_are_told(upload: Upload) -> None:
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
async def test_a_body_that_is_no_form_with_a_file_is_refused(
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
async def test_an_archive_over_the_limit_is_refused_with_the_limit_and_leaves_nothing_behind(
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


async def test_an_upload_that_breaks_off_leaves_nothing_behind(
    live: Live, tokens: TokenFactory, left_behind: LeftBehind
) -> None:
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


async def test_nothing_is_received_without_a_token(live: Live, left_behind: LeftBehind) -> None:
    received = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal received
        received += 1
        yield b"x"

    answer = await live.client.post("/v1/imports", content=content())
    assert answer.status_code == 401
    assert await left_behind() == {}


async def test_a_commit_that_fails_leaves_nothing_behind(
    live: Live, upload: Upload, zip_of: Any, members: Any, left_behind: LeftBehind
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
    assert (await upload(zip_of(members))).status_code == 500
    assert await left_behind() == {}


@pytest.mark.main_path
async def test_an_upload_sent_twice_under_one_key_is_one_import(
    upload: Upload, zip_of: Any, members: Any, left_behind: LeftBehind
) -> None:
    content = zip_of(members)
    first = await upload(content, key="abc")
    again = await upload(content, key="abc")
    assert again.status_code == 202
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    other = await upload(with_event(), key="abc")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert await left_behind() == {"stored files": 1, "imports": 1, "idempotency_keys": 1, "outbox": 1}


async def test_what_a_killed_process_has_stored_is_found_and_deleted(live: Live, left_behind: LeftBehind) -> None:
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
async def test_an_import_that_did_not_change_need_not_be_sent_again(
    live: Live, tokens: TokenFactory, upload: Upload
) -> None:
    job = await upload(with_event())
    path = job.headers["location"]
    tag = job.headers["etag"]
    same = await live.client.get(path, headers=tokens.organizer() | {"If-None-Match": tag})
    assert (same.status_code, same.content) == (304, b"")
    await set_progress(live, job.json()["id"], state="running", step="uploading images", done=1, total=9)
    changed = await live.client.get(path, headers=tokens.organizer() | {"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


# Following


def request_scope(path: str, method: str, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "server": ("service.test", 80),
        "client": ("127.0.0.1", 1),
    }


async def set_progress(live: Live, import_id: str, **values: Any) -> None:
    async with live.sessions.begin() as session:
        job = await session.get_one(Import, UUID(import_id))
        for name, value in values.items():
            setattr(job, name, value)


class Follower:
    """A client that reads events as they come and may leave."""

    def __init__(self, live: Live, path: str, headers: dict[str, str]) -> None:
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.left = asyncio.Event()
        self._asked = False
        self.task = asyncio.create_task(live.app(request_scope(path, "GET", headers), self._receive, self._send))

    async def _receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message.get("body"):
            self.chunks.put_nowait(message["body"])

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                event = (await self.chunks.get()).decode()
                if event.startswith("data: "):
                    found: dict[str, Any] = json.loads(event.removeprefix("data: "))
                    return found


async def test_a_follower_sees_each_change_and_the_end(live: Live, tokens: TokenFactory, upload: Upload) -> None:
    import_id = (await upload(with_event())).json()["id"]
    follower = Follower(live, f"/v1/imports/{import_id}/progress", tokens.organizer())
    assert (await follower.next())["state"] == "queued"
    await set_progress(live, import_id, state="running", step="uploading images", done=1, total=9)
    seen = await follower.next()
    assert (seen["state"], seen["step"], seen["done"], seen["total"]) == ("running", "uploading images", 1, 9)
    await set_progress(live, import_id, done=9)
    assert (await follower.next())["done"] == 9
    await set_progress(live, import_id, state="done")
    assert (await follower.next())["state"] == "done"
    async with asyncio.timeout(10):
        await follower.task
    assert live.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_stream_ends_when_its_follower_leaves_and_holds_no_connection_meanwhile(
    live: Live, tokens: TokenFactory, upload: Upload
) -> None:
    import_id = (await upload(with_event())).json()["id"]
    followers = [
        Follower(live, f"/v1/imports/{import_id}/progress", tokens.organizer())
        for _ in range(live.settings.database_pool_size * 4)
    ]
    for follower in followers:
        await follower.next()
    assert (await live.client.get(f"/v1/imports/{import_id}", headers=tokens.organizer())).status_code == 200
    for follower in followers:
        follower.left.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*(follower.task for follower in followers), return_exceptions=True)


async def test_an_ended_import_is_told_once_as_an_event_stream(
    live: Live, tokens: TokenFactory, upload: Upload
) -> None:
    import_id = (await upload(with_event())).json()["id"]
    await set_progress(live, import_id, state="failed", error={**_GIVEN_UP})
    answer = await live.client.get(f"/v1/imports/{import_id}/progress", headers=tokens.organizer())
    assert answer.headers["content-type"].startswith("text/event-stream")
    [line] = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    told = json.loads(line.removeprefix("data: "))
    assert (told["state"], told["error"]["code"]) == ("failed", "job-given-up")


_GIVEN_UP = {
    "type": "urn:rostrum:problem:job-given-up",
    "title": "Job failed repeatedly",
    "status": 500,
    "code": "job-given-up",
    "detail": "5 attempts ended without a result.",
    "errors": [],
}
