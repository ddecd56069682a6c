"""What a route declares of its access: ``requires(scope)``, ``PUBLIC`` or ``service_only()``.

``declared_access`` lists them all. They find the verifier at ``app.state.token_verifier``.
Identity never comes from a gateway's header, only from a token that this service has verified.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.routing import iter_route_contexts
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


async def _verified(connection: HTTPConnection, *, needed: bool) -> Principal | None:
    shown = connection.headers.getlist("Authorization")
    if not shown:
        if needed:
            raise Unauthenticated(
                "There is no token. Send one in the header `Authorization: Bearer …`.", token_was_shown=False
            )
        return None
    scheme, token = get_authorization_scheme_param(shown[0])
    if len(shown) > 1 or scheme.lower() != "bearer" or not token:
        raise Unauthenticated("Send one `Authorization` header with one bearer token: `Authorization: Bearer …`.")
    verifier: TokenVerifier = connection.app.state.token_verifier
    return await verifier.verify(token)


async def _verified_principal(connection: HTTPConnection) -> Principal:
    principal = await _verified(connection, needed=True)
    assert principal is not None  # noqa: S101 - `needed`
    return principal


async def optional_principal(request: HTTPConnection) -> Principal | None:
    """``None`` when no ``Authorization`` header was sent; a token that was sent must be good."""
    return await _verified(request, needed=False)


_BEARER = HTTPBearerModel(
    bearerFormat="JWT", description="An OIDC access token with the claims `sub`, `org`, `scope`."
)


@dataclass(frozen=True)
class Requires(SecurityBase):
    """Gives the ``OrganizerPrincipal`` of a token that has this scope."""

    scope: str

    model = _BEARER
    scheme_name = "token"

    async def __call__(self, connection: HTTPConnection) -> OrganizerPrincipal:
        principal = await _verified_principal(connection)
        if not principal.has(self.scope):
            raise ScopeMissing(self.scope)
        if principal.organizer is None:
            raise Unauthenticated("The token names no organizer: get one that has an `org` claim.")
        return OrganizerPrincipal(principal.subject, principal.organizer, principal.scopes)


@dataclass(frozen=True)
class ServiceOnly(SecurityBase):
    """Gives the ``Principal`` of another service of Rostrum; everybody else is refused."""

    model = _BEARER
    scheme_name = "token"

    async def __call__(self, connection: HTTPConnection) -> Principal:
        principal = await _verified_principal(connection)
        if not principal.is_service:
            raise ScopeMissing(INTERNAL_SCOPE, "Only services of Rostrum may use this path, with their own tokens.")
        return principal


@dataclass(frozen=True)
class Public:
    """Gives the ``Principal`` when a token was sent and ``None`` when not: open to everybody."""

    async def __call__(self, connection: HTTPConnection) -> Principal | None:
        return await optional_principal(connection)


PUBLIC = Public()
UNDECLARED = "undeclared"


def requires(scope: str) -> Requires:
    return Requires(scope)


def service_only() -> ServiceOnly:
    return ServiceOnly()


def organizer(scope: str) -> Callable[[OrganizerPrincipal], Awaitable[str]]:
    """A dependency that gives the organizer of a token that has this scope."""

    # A coroutine, although it waits for nothing: FastAPI runs plain functions in a thread.
    async def organizer_of(principal: Annotated[OrganizerPrincipal, Depends(requires(scope))]) -> str:
        return principal.organizer

    return organizer_of


def reader(scope: str) -> Callable[[Principal | None], Awaitable[str | None]]:
    """A dependency of public routes that gives the organizer who may see drafts, ``None`` for the public."""

    async def reader_of(principal: Annotated[Principal | None, Depends(PUBLIC)]) -> str | None:
        return principal.organizer if principal is not None and principal.has(scope) else None

    return reader_of


def declared_access(app: FastAPI) -> dict[tuple[str, str], str]:
    """What each route asks for, by method and path: a scope, ``public``, ``internal`` or ``UNDECLARED``.

    Several declarations on one route are joined by spaces. Mounts and WebSockets have the method ``*``; FastAPI's
    own pages (``/openapi.json``, ``/docs``) are left out.
    """
    own_pages = {app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url}
    access: dict[tuple[str, str], str] = {}
    for route in iter_route_contexts(app.routes):
        if route.path is None or route.path in own_pages:
            continue
        dependant: Dependant | None = getattr(route, "dependant", None)
        declared = " ".join(sorted(_declarations(dependant))) if dependant else ""
        for method in route.methods or {"*"}:
            access[method, route.path] = declared or UNDECLARED
    return access


def _declarations(dependant: Dependant) -> set[str]:
    found: set[str] = set()
    match dependant.call:
        case Requires(scope=scope):
            found.add(scope)
        case ServiceOnly():
            found.add(INTERNAL_SCOPE)
        case Public():
            found.add("public")
        case call if call is optional_principal:
            found.add("public")
    return found.union(*(_declarations(nested) for nested in dependant.dependencies))
