"""Waits until the database has the schema that this code was written for: ``python -m shared.database.migrated``.

For what starts beside a migration that another process runs. The migrations are those of the ``alembic.ini`` in the
working folder. A database that a later release has migrated already is good as well, since a migration must fit the
release before it. Waits for ever, through outages; ends with 0, also by SIGTERM.
"""

import asyncio
import signal
import sys
from pathlib import Path

import asyncpg
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.database.engine import asyncpg_dsn, connection_settings
from shared.settings import Settings
from shared.telemetry.logs import configure_logs, get_logger

log = get_logger(__name__)

POLL_SECONDS = 1.0
PATIENCE = 10.0


async def is_migrated(settings: Settings, config: Config) -> bool:
    """Raises what asyncpg raises when the database can't be asked."""
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    present = await _revisions(settings)
    return bool(present) and (present >= set(script.get_heads()) or bool(present - known))


async def wait_until_migrated(settings: Settings, config: Config) -> None:
    """Looks again every ``POLL_SECONDS``; tells every ``PATIENCE`` seconds that it waits."""
    loop = asyncio.get_running_loop()
    tell_at = loop.time()
    while True:
        reason = "not migrated yet"
        try:
            if await is_migrated(settings, config):
                log.info("schema.there")
                return
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            reason = f"{type(error).__name__}: {error}"
        if loop.time() >= tell_at:
            log.info("schema.awaited", reason=reason)
            tell_at = loop.time() + PATIENCE
        await asyncio.sleep(POLL_SECONDS)


async def _revisions(settings: Settings) -> set[str]:
    url = asyncpg_dsn(settings.database_url.get_secret_value())
    parameters = connection_settings(settings, "schema")
    connection = await asyncpg.connect(url, timeout=5, command_timeout=5, server_settings=parameters)
    try:
        return {row["version_num"] for row in await connection.fetch("SELECT version_num FROM alembic_version")}
    except asyncpg.UndefinedTableError:
        return set()
    finally:
        await connection.close(timeout=2)


def main() -> None:
    settings = Settings()  # SERVICE names the service
    configure_logs(
        service=settings.service, role="schema", level=settings.log_level, as_json=settings.log_format == "json"
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(wait_until_migrated(settings, Config(Path("alembic.ini"))))


if __name__ == "__main__":
    main()
