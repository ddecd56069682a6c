"""This service's own token for calls to other services."""

import json
from collections.abc import Generator
from pathlib import Path

import httpx
from joserfc.util import urlsafe_b64decode

from shared.auth.verify import COMPACT_JWS
from shared.problems import Unavailable
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import SERVICE_TOKEN_EXPIRES_AT

log = get_logger(__name__)


class ServiceTokenUnreadable(Unavailable):
    """``SERVICE_TOKEN_FILE`` is not set, or its file is missing or holds no token."""


class ServiceTokenAuth(httpx.Auth):
    """Send this service's own token to other services: the ``auth`` of an ``httpx`` client.

    Each request reads the file, since its writer (the local issuer, a Kubernetes projection) replaces the token
    long before it expires.
    """

    def __init__(self, token_file: Path | None) -> None:
        self._file = token_file
        if token_file is not None:
            # Read at each scrape: after hours without a call, the last token sent is long replaced.
            SERVICE_TOKEN_EXPIRES_AT.labels(token_file.name).set_function(self._expires_at)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        try:
            token = self._token()
        except (OSError, ValueError) as error:
            log.error("tokens.service_token_unreadable", file=str(self._file), error=str(error))
            detail = "This service has no token for other services. Try again later."
            raise ServiceTokenUnreadable(detail) from error
        request.headers["Authorization"] = f"Bearer {token}"
        yield request

    def _token(self) -> str:
        if self._file is None:
            raise ValueError("SERVICE_TOKEN_FILE is not set")
        token = self._file.read_text("ascii").strip()
        if not COMPACT_JWS.match(token):
            raise ValueError("the file does not hold a token")
        return token

    def _expires_at(self) -> float:
        try:
            return float(json.loads(urlsafe_b64decode(self._token().split(".")[1].encode()))["exp"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0.0
