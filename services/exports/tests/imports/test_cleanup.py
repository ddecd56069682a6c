from uuid import UUID

import pytest

from exports.imports.cleanup import delete_archives
from exports.imports.tasks import run_import
from exports.resources import Resources
from services.exports.tests.factories import LeftBehind
from testkit.plugin import Live


@pytest.mark.main_path
async def test_archive_is_deleted_when_its_import_is_done_and_not_before(
    live: Live, resources: Resources, import_id: UUID, left_behind: LeftBehind
) -> None:
    await delete_archives(live.sessions, settings=live.settings)
    assert (await left_behind())["stored files"] == 1
    await run_import(resources, import_id)
    await delete_archives(live.sessions, settings=live.settings)
    await delete_archives(live.sessions, settings=live.settings)
    assert "stored files" not in await left_behind()
