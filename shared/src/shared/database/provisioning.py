"""Creates each service's role and schema on one PostgreSQL server: ``python -m shared.database.provisioning``.

``ADMIN_DATABASE_URL`` names a role that may create roles and databases, ``PROVISION=events:password,…`` the
services. It may run any number of times.
"""

import asyncio
import os
import sys
from collections.abc import Mapping

import asyncpg

from shared.database.engine import asyncpg_dsn

DATABASE = "rostrum"


async def provision(admin_url: str, passwords: Mapping[str, str], *, database: str = DATABASE) -> None:
    """Create ``database``, and per service a login role that owns the schema of its name and sees no other."""
    server = await asyncpg.connect(asyncpg_dsn(admin_url))
    try:
        if not await server.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
            await server.execute(f'CREATE DATABASE "{database}"')
        for name, password in passwords.items():
            verb = "ALTER" if await server.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name) else "CREATE"
            quoted = await server.fetchval("SELECT quote_literal($1::text)", password)
            await server.execute(f'{verb} ROLE "{name}" LOGIN PASSWORD {quoted}')
    finally:
        await server.close()
    inside = await asyncpg.connect(asyncpg_dsn(admin_url), database=database)
    try:
        await inside.execute(f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC')
        await inside.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        for name in passwords:
            await inside.execute(f'GRANT CONNECT ON DATABASE "{database}" TO "{name}"')
            # A managed server's administrator is not a superuser, so it must be a member to give the schema away.
            await inside.execute(f'GRANT "{name}" TO CURRENT_USER')
            await inside.execute(f'CREATE SCHEMA IF NOT EXISTS "{name}" AUTHORIZATION "{name}"')
            await inside.execute(f'ALTER ROLE "{name}" SET search_path = "{name}"')
    finally:
        await inside.close()


def main() -> None:
    try:
        admin_url, services = os.environ["ADMIN_DATABASE_URL"], os.environ["PROVISION"]
    except KeyError as missing:
        sys.exit(f"{missing.args[0]} is not set; see the docstring of shared.database.provisioning.")
    passwords = dict(pair.split(":", 1) for pair in services.split(","))
    asyncio.run(provision(admin_url, passwords))


if __name__ == "__main__":
    main()
