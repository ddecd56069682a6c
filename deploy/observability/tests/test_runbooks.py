"""The SQL statements of the runbooks work."""

import re

import asyncpg

from deploy.observability.prometheus import FOLDER
from events import api as events_api
from events.settings import EventsSettings
from exports import api as exports_api
from exports.settings import ExportsSettings
from media import api as media_api
from media.settings import MediaSettings
from shared.database.engine import asyncpg_dsn
from testkit.plugin import Databases, ServiceUnderTest
from tickets import api as tickets_api
from tickets.settings import TicketsSettings

ROOT = FOLDER.parents[1]
SERVICES = [
    ServiceUnderTest(EventsSettings, events_api.create_app, ROOT / "services" / "events"),
    ServiceUnderTest(TicketsSettings, tickets_api.create_app, ROOT / "services" / "tickets"),
    ServiceUnderTest(MediaSettings, media_api.create_app, ROOT / "services" / "media"),
    ServiceUnderTest(ExportsSettings, exports_api.create_app, ROOT / "services" / "exports"),
]


async def test_every_statement_runs_in_a_service(databases: Databases) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    statements = {
        found.replace("…", "gen_random_uuid()") for found in re.findall(r"`((?:SELECT|UPDATE) .*?)`", text)
    }
    assert len(statements) > 6
    failed = dict.fromkeys(statements, "")
    for service in SERVICES:
        url = asyncpg_dsn(await databases.clone(service))
        connection = await asyncpg.connect(url, server_settings={"search_path": service.name})
        for statement in list(failed):
            try:
                await connection.execute(statement)
                del failed[statement]
            except asyncpg.PostgresError as error:
                failed[statement] += f"{service.name}: {error}; "
        await connection.close()
    assert failed == {}
