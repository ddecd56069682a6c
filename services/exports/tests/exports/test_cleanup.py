"""Files of exports are deleted when they have expired."""

from uuid import UUID

import pytest
from sqlalchemy import func

from exports.exports.cleanup import delete_files
from services.exports.tests.exports.factories import change, download
from services.exports.tests.factories import LeftBehind, ReadJob
from testkit.plugin import Live, TokenFactory


@pytest.mark.main_path
async def test_file_of_an_export_is_deleted_when_it_has_expired(
    live: Live, tokens: TokenFactory, done: UUID, read: ReadJob, left_behind: LeftBehind
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
async def test_file_of_an_export_that_failed_late_is_deleted(
    live: Live, done: UUID, left_behind: LeftBehind
) -> None:
    await change(live, done, state="failed", expires_at=None)
    await delete_files(live.sessions, settings=live.settings)
    assert "stored files" not in await left_behind()
