"""Migrate the databases of all services, one after another in one process.

Importing Alembic and the tables is most of the work, so one process is faster than one for each service.
``MIGRATE`` is a JSON object of service → database URL; the services are below the working directory.
"""

import json
import os
from pathlib import Path

import alembic.command
import alembic.config


def main() -> None:
    for service, url in json.loads(os.environ["MIGRATE"]).items():
        config = alembic.config.Config(Path("services", service, "alembic.ini"))
        os.environ["DATABASE_URL"] = url  # the migration reads it, as in a container
        print(f"migrating {service}", flush=True)
        alembic.command.upgrade(config, "head")


if __name__ == "__main__":
    main()
