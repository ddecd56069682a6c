"""The schema gate: ``python -m shared.database.migrated`` waits until the database has the schema of this code.

It reads the revisions beside the ``alembic.ini`` of the working directory. A schema of a later release passes too,
because every migration must fit the release before it. It waits through outages and exits with 0, also on SIGTERM.
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
LOG_SECONDS = 10.0


async def is_migrated(settings: Settings, config: Config) -> bool:
    """Return whether the schema is at this code's revision or a later one. Raises what asyncpg raises."""
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    current = await _revisions(settings)
    return bool(current) and (current >= set(script.get_heads()) or bool(current - known))


async def wait_until_migrated(settings: Settings, config: Config) -> None:
    """Poll every ``POLL_SECONDS`` and log every ``LOG_SECONDS`` why it still waits."""
    loop = asyncio.get_running_loop()
    log_at = loop.time()
    while True:
        reason = "not migrated yet"
        try:
            if await is_migrated(settings, config):
                log.info("schema.ready")
                return
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            reason = f"{type(error).__name__}: {error}"
        if loop.time() >= log_at:
            log.info("schema.awaited", reason=reason)
            log_at = loop.time() + LOG_SECONDS
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
    configure_logs(settings, "schema")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(wait_until_migrated(settings, Config(Path("alembic.ini"))))


if __name__ == "__main__":
    main()
