"""Uploads over HTTP: what is accepted, what is refused, and that a refusal leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, insert, select, text, update

from media.models import Image
from services.media.tests.factories import NothingIsLeft, TemporaryFiles, Upload, noise, png, png_claiming
from shared.storage.transit import FILES_IN_TRANSIT, TRANSIT_PATIENCE, discard_forgotten
from testkit.plugin import Live, TokenFactory

Check = NothingIsLeft
Post = Callable[..., Awaitable[httpx.Response]]


def stored_files(live: Live) -> list[Path]:
    return [path for path in live.settings.storage_folder.rglob("*") if path.is_file()]


@pytest.mark.main_path
async def test_an_upload_is_stored_queued_and_readable_at_its_location(
    live: Live,
    upload: Upload,
    tokens: TokenFactory,
    temporary_files: TemporaryFiles,
) -> None:
    content = png()
    answer = await upload(content, kind="speaker", name="../Ada & <Grace>.png")

    assert answer.status_code == 202
    image = answer.json()
    assert (image["state"], image["kind"], image["name"]) == ("received", "speaker", "Ada & <Grace>.png")
    assert image["original"] == {"width": 1600, "height": 900, "size": len(content), "format": "PNG"}
    assert (image["variants"], image["saved_bytes"], image["error"]) == ([], None, None)
    assert answer.headers["Location"] == f"/v1/images/{image['id']}"

    read = await live.client.get(answer.headers["Location"], headers=tokens.organizer())
    assert read.json() == image
    assert read.headers["ETag"] == answer.headers["ETag"]
    same = await live.client.get(
        answer.headers["Location"], headers=tokens.organizer() | {"If-None-Match": read.headers["ETag"]}
    )
    assert (same.status_code, same.content) == (304, b"")

    [original] = stored_files(live)
    assert original.read_bytes() == content
    assert original.name == image["id"]
    assert temporary_files() == []
    async with live.sessions() as session:
        rows = (await session.execute(text("SELECT kind, type, payload FROM outbox"))).all()
        assert [(row.kind, row.type, row.payload["job_id"]) for row in rows] == [
            ("job", "media.convert_image", image["id"])
        ]
        assert await session.scalar(select(func.count()).select_from(FILES_IN_TRANSIT)) == 0


async def test_200_megapixels_in_30_kilobytes_are_refused_and_leave_nothing(
    upload: Upload, nothing_is_left: NothingIsLeft
) -> None:
    bomb = png_claiming(20_000, 10_000, bytes(30 << 20))
    assert len(bomb) < 40_000

    answer = await upload(bomb)

    assert (answer.status_code, answer.json()["code"]) == (422, "image-too-large")
    assert answer.json()["errors"][0]["field"] == "file"
    assert "scale it down" in answer.json()["detail"]
    await nothing_is_left()


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"just some words", 422, "not an image"),
        (b"", 422, "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "SVG"),
        (b"\x89PNG\r\n\x1a\n broken", 422, "damaged"),
    ],
)
async def test_what_is_not_an_image_is_refused_with_the_supported_formats(
    upload: Upload, nothing_is_left: NothingIsLeft, content: bytes, status: int, words: str
) -> None:
    answer = await upload(content)

    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == "file"
    assert words in answer.json()["detail"]
    assert "PNG, JPEG, WebP or GIF" in answer.json()["detail"]
    await nothing_is_left()


async def test_an_image_over_the_limit_is_refused_by_its_declared_length(
    live: Live, upload: Upload, nothing_is_left: NothingIsLeft
) -> None:
    answer = await upload(bytes(live.settings.max_image_size * 2))

    assert (answer.status_code, answer.json()["code"]) == (413, "image-file-too-large")
    assert answer.json()["errors"] == [
        {
            "field": "file",
            "max_size": live.settings.max_image_size,
            "message": "Images are limited to 10 MiB. Save it smaller, or as JPEG, and upload that.",
        }
    ]
    await nothing_is_left()


async def test_an_image_over_the_limit_without_a_declared_length_is_refused_while_it_arrives(
    live: Live, tokens: TokenFactory, nothing_is_left: NothingIsLeft
) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        while sent < 40 << 20:
            sent += 1 << 20
            yield bytes(1 << 20)

    answer = await live.client.post(
        "/v1/images",
        content=body(),
        headers=tokens.organizer() | {"Content-Type": "multipart/form-data; boundary=b"},
    )

    assert (answer.status_code, answer.json()["code"]) == (413, "image-file-too-large")
    assert sent <= live.settings.max_image_size + (2 << 20)
    await nothing_is_left()


async def test_the_limit_is_exact(live: Live, upload: Upload) -> None:
    small = png(20, 20)
    padding = bytes(live.settings.max_image_size - len(small))

    assert (await upload(small + padding)).status_code == 202
    assert (await upload(small + padding + b"\0")).status_code == 413


@pytest.mark.parametrize(
    ("request_", "status", "field"),
    [
        ({"json": {"file": "x"}}, 415, None),
        ({"files": {"image": ("a.png", b"x")}}, 422, "image"),
        ({"files": {"file": ("a.png", b"x"), "other": ("b.png", b"x")}}, 422, "file"),
        ({"files": {"file": (None, b"text")}}, 422, "file"),
        ({"files": {"file": ("a.png", b"x")}, "data": {"kind": "cat"}}, 422, "kind"),
        ({"files": {"file": ("a.png", b"x")}, "data": {"kind": "x" * 5000}}, 422, "file"),
        ({"content": b"--b\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 422, "file"),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data"}}, 422, "file"),
    ],
)
async def test_an_invalid_form_is_refused_by_field(
    live: Live,
    tokens: TokenFactory,
    nothing_is_left: NothingIsLeft,
    request_: dict[str, Any],
    status: int,
    field: str | None,
) -> None:
    headers = tokens.organizer() | request_.get("headers", {})
    answer = await live.client.post("/v1/images", **{**request_, "headers": headers})

    assert answer.status_code == status, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == ([field] if field else [])
    await nothing_is_left()


@pytest.mark.main_path
async def test_an_upload_sent_twice_with_one_key_makes_one_image(live: Live, upload: Upload) -> None:
    first = await upload(png(), key="k1")
    again = await upload(png(), key="k1")

    assert again.status_code == 202
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(stored_files(live)) == 1, "the second original is not kept"
    other = await upload(png(40, 40), key="k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert len(stored_files(live)) == 1
    async with live.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(FILES_IN_TRANSIT)) == 0


async def test_a_failed_commit_answers_500_and_leaves_nothing(
    live: Live, upload: Upload, nothing_is_left: NothingIsLeft
) -> None:
    async with live.engine.begin() as connection:
        await connection.execute(
            text("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
        )
        await connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON images "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"
            )
        )

    answer = await upload(png())

    assert answer.status_code == 500
    await nothing_is_left()


async def test_originals_of_killed_processes_are_deleted_after_a_day(live: Live, upload: Upload) -> None:
    kept = UUID((await upload(png())).json()["id"])
    await live.app.state.storage.put("originals/x/orphan", b"left", content_type="image/png")
    await live.app.state.storage.put("originals/x/fresh", b"in work", content_type="image/png")
    async with live.sessions.begin() as session:
        keys = ("originals/x/orphan", "originals/x/fresh")
        await session.execute(insert(FILES_IN_TRANSIT), [{"key": key} for key in keys])
        long_ago = func.clock_timestamp() - TRANSIT_PATIENCE - timedelta(minutes=1)
        await session.execute(
            update(FILES_IN_TRANSIT)
            .where(FILES_IN_TRANSIT.c.key == "originals/x/orphan")
            .values(created_at=long_ago)
        )

    await discard_forgotten(live.sessions, settings=live.settings)

    assert {path.name for path in stored_files(live)} == {str(kept), "fresh"}
    async with live.sessions() as session:
        assert (await session.scalars(select(FILES_IN_TRANSIT.c.key))).all() == ["originals/x/fresh"]


@pytest.mark.main_path
async def test_concurrent_uploads_are_independent(live: Live, upload: Upload) -> None:
    contents = [noise(200 + n) for n in range(12)]
    answers = await asyncio.gather(*(upload(content) for content in contents))

    assert [answer.status_code for answer in answers] == [202] * 12
    assert {path.read_bytes() for path in stored_files(live)} == set(contents)
    async with live.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Image)) == 12
