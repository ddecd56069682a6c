"""What a route declares of its access: ``Requires(scope)``, ``PUBLIC`` or ``SERVICE_ONLY``.

Each is a dependency that reads the verifier at ``app.state.token_verifier``. Identity comes only from a token that
this service has verified, never from a header of the gateway.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import HTTPConnection

from shared.auth.verify import INTERNAL_SCOPE, OrganizerPrincipal, Principal, TokenVerifier, Unauthenticated
from shared.problems import Problem


class ScopeMissing(Problem):
    status = 403
    code = "scope-missing"
    title = "Insufficient scope"

    def __init__(self, scope: str, detail: str | None = None) -> None:
        super().__init__(
            detail or f"The token lacks the scope `{scope}`. Ask the issuer for a token that has it.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            scope=scope,
        )


async def _principal_of(connection: HTTPConnection) -> Principal:
    sent = connection.headers.getlist("Authorization")
    if not sent:
        raise Unauthenticated("The token is missing. Send it as `Authorization: Bearer …`.", token_was_sent=False)
    scheme, token = get_authorization_scheme_param(sent[0])
    if len(sent) > 1 or scheme.lower() != "bearer" or not token:
        raise Unauthenticated("Send one `Authorization` header with one bearer token: `Authorization: Bearer …`.")
    verifier: TokenVerifier = connection.app.state.token_verifier
    return await verifier.verify(token)


_BEARER = HTTPBearerModel(
    bearerFormat="JWT", description="An OIDC access token with the claims `sub`, `org`, `scope`."
)


@dataclass(frozen=True)
class Requires(SecurityBase):
    """Return the ``OrganizerPrincipal`` of a token that has this scope."""

    scope: str

    model = _BEARER
    scheme_name = "token"

    async def __call__(self, connection: HTTPConnection) -> OrganizerPrincipal:
        principal = await _principal_of(connection)
        if not principal.has(self.scope):
            raise ScopeMissing(self.scope)
        if principal.organizer is None:
            raise Unauthenticated("The token names no organizer. Get one with the claim `org`.")
        return OrganizerPrincipal(principal.subject, principal.organizer, principal.scopes)


@dataclass(frozen=True)
class ServiceOnly(SecurityBase):
    """Return the ``Principal`` of another service of Rostrum, and refuse everyone else."""

    model = _BEARER
    scheme_name = "token"

    async def __call__(self, connection: HTTPConnection) -> Principal:
        principal = await _principal_of(connection)
        if not principal.is_service:
            raise ScopeMissing(INTERNAL_SCOPE, "This path is for services of Rostrum with tokens of their own.")
        return principal


@dataclass(frozen=True)
class Public:
    """Return the ``Principal`` of the token, or ``None`` without one. A token that is sent must be valid."""

    async def __call__(self, connection: HTTPConnection) -> Principal | None:
        return await _principal_of(connection) if "Authorization" in connection.headers else None


SERVICE_ONLY = ServiceOnly()
PUBLIC = Public()


def organizer(scope: str) -> Callable[[OrganizerPrincipal], Awaitable[str]]:
    """Return a dependency that returns the organizer of a token with this scope."""

    # A coroutine, since FastAPI runs plain functions in a thread.
    async def organizer_of(principal: Annotated[OrganizerPrincipal, Depends(Requires(scope))]) -> str:
        return principal.organizer

    return organizer_of


def reader(scope: str) -> Callable[[Principal | None], Awaitable[str | None]]:
    """Return a dependency of public routes: the organizer who may read drafts, ``None`` for the public."""

    async def reader_of(principal: Annotated[Principal | None, Depends(PUBLIC)]) -> str | None:
        return principal.organizer if principal is not None and principal.has(scope) else None

    return reader_of
