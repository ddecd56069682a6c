"""What the runbooks have an operator type works."""

import re

import asyncpg

from deploy.observability.prometheus import FOLDER
from events.api import create_events
from events.settings import EventsSettings
from exports.api import create_exports
from exports.settings import ExportsSettings
from media.api import create_media
from media.settings import MediaSettings
from shared.testing import Databases, ServiceUnderTest
from tickets.api import create_tickets
from tickets.settings import TicketsSettings

ROOT = FOLDER.parents[1]
SERVICES = [
    ServiceUnderTest(EventsSettings, create_events, ROOT / "services" / "events"),
    ServiceUnderTest(TicketsSettings, create_tickets, ROOT / "services" / "tickets"),
    ServiceUnderTest(MediaSettings, create_media, ROOT / "services" / "media"),
    ServiceUnderTest(ExportsSettings, create_exports, ROOT / "services" / "exports"),
]


async def test_every_statement_runs_in_some_service(databases: Databases) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    statements = {
        found.replace("…", "gen_random_uuid()") for found in re.findall(r"`((?:SELECT|UPDATE) .*?)`", text)
    }
    assert len(statements) > 6
    failed = dict.fromkeys(statements, "")
    for service in SERVICES:
        url = (await databases.clone(service)).replace("+asyncpg", "", 1)
        connection = await asyncpg.connect(url, server_settings={"search_path": service.name})
        for statement in list(failed):
            try:
                await connection.execute(statement)
                del failed[statement]
            except asyncpg.PostgresError as error:
                failed[statement] += f"{service.name}: {error}; "
        await connection.close()
    assert failed == {}
