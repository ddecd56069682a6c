"""Run the steps of ``make demo`` on the running containers: ``python -m deploy.compose.demo [ARCHIVE]``.

Reads ``GATEWAY_URL`` and ``TOKEN`` from the environment.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.local.demo import ARCHIVE, demonstrate

COMMANDS = {
    "token": "make compose-token ORG=demo",
    "logs, containers": "docker compose logs, docker compose ps",
    "stop": "make compose-down",
}


def main(argv: Sequence[str]) -> int:
    archive = Path(argv[0]) if argv and argv[0] else ARCHIVE
    if not archive.is_file():
        print(f"Archive not found: {archive}. Give the path of an Open Event archive.", file=sys.stderr)
        return 2
    return demonstrate(
        os.environ["GATEWAY_URL"], os.environ["TOKEN"], archive, commands=COMMANDS, logs="docker compose logs"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
