"""Calls to other services: this service's own token."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import httpx
from joserfc.util import urlsafe_b64decode

from shared.auth.verify import COMPACT_JWS
from shared.problems import Unavailable
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import SERVICE_TOKEN_EXPIRES_AT

log = get_logger(__name__)


class ServiceTokenUnreadable(Unavailable):
    """The file of ``SERVICE_TOKEN_FILE`` is missing, empty or not set: another service can't be called."""


class ServiceTokenAuth(httpx.Auth):
    """Shows this service's own token to other services; for the ``auth`` of an ``httpx`` client.

    The file is looked at for every request, because what writes it (the local issuer, a Kubernetes projection)
    replaces the token long before it expires; it is read again only when it changed.
    """

    def __init__(self, token_file: Path | None) -> None:
        self._file = token_file
        self._read: tuple[tuple[int, int, int], str] | None = None
        if token_file is not None:
            # Asked for at each scrape and not noted at each use: a service that calls nobody for hours would tell
            # the end of a token that has long been replaced.
            SERVICE_TOKEN_EXPIRES_AT.labels(token_file.name).set_function(self._expires_at)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token()}"
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        request.headers["Authorization"] = f"Bearer {await asyncio.to_thread(self._token)}"
        yield request

    def _token(self) -> str:
        try:
            return self._newest()
        except (OSError, ValueError) as error:
            log.error("tokens.service_token_unreadable", file=str(self._file), error=str(error))
            raise ServiceTokenUnreadable(
                "This service can't identify itself to the others at the moment."
            ) from error

    def _newest(self) -> str:
        if self._file is None:
            raise ValueError("SERVICE_TOKEN_FILE is not set")
        facts = self._file.stat()
        version = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        if self._read is None or self._read[0] != version:
            token = self._file.read_text("ascii").strip()
            if not COMPACT_JWS.match(token):
                raise ValueError("the file does not hold a token")
            self._read = (version, token)
        return self._read[1]

    def _expires_at(self) -> float:
        try:
            return float(json.loads(urlsafe_b64decode(self._newest().split(".")[1].encode()))["exp"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0.0
