"""The token issuer of the containers, which replaces an identity provider as in the local cluster.

``serve`` writes the public keys to ``JWKS`` and a token for each service, and renews the tokens until SIGTERM.
``token`` prints a developer token. It runs in the image of any service, with the folder ``deploy`` mounted
beside its code; no other container mounts the volume with its key.
"""

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.local.issuer import (
    PUBLIC_SCOPES,
    Issuer,
    keep_service_tokens_fresh,
    load_issuer,
    write_service_tokens,
)

KEY = Path("/var/lib/rostrum/issuer")
JWKS = Path("/jwks")
TOKENS = Path("/tokens")  # each folder in it is a volume that only the service of its name mounts


def write_all(issuer: Issuer) -> list[str]:
    """Write the public keys and all tokens; return the services that have one."""
    unfinished = JWKS / ".jwks.json"
    shutil.copy(issuer.jwks_path, unfinished)
    unfinished.rename(JWKS / "jwks.json")
    services = sorted(folder.name for folder in TOKENS.iterdir())
    for service in services:
        write_service_tokens(issuer, TOKENS / service, (service,))
    return services


async def keep_fresh(issuer: Issuer, services: Sequence[str]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    renewals = [
        asyncio.create_task(keep_service_tokens_fresh(issuer, TOKENS / service, (service,), trouble=print))
        for service in services
    ]
    await stopping.wait()
    for renewal in renewals:
        renewal.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewal


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.compose.issuer")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("serve", help="write keys and service tokens, and renew them")
    verb = verbs.add_parser("token", help="print a developer token")
    verb.add_argument("--org", required=True, help="the organizer, for the claim `org`")
    verb.add_argument("--scope", default=PUBLIC_SCOPES)
    arguments = parser.parse_args(argv)
    issuer = load_issuer(KEY)
    if arguments.verb == "serve":
        services = write_all(issuer)
        print(f"wrote tokens for {', '.join(services)}", flush=True)
        asyncio.run(keep_fresh(issuer, services))
    else:
        print(issuer.issue("developer", org=arguments.org, scope=arguments.scope))
    return 0


if __name__ == "__main__":
    sys.exit(main())
