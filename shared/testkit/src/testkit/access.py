"""What the routes of a service declare of their access."""

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from shared.auth.access import Public, Requires, ServiceOnly
from shared.auth.verify import INTERNAL_SCOPE

UNDECLARED = "undeclared"


def declared_access(app: FastAPI) -> dict[tuple[str, str], str]:
    """Return what each route declares, by method and path: a scope, ``public``, ``internal`` or ``UNDECLARED``.

    Several declarations of one route are joined by spaces. Mounts and WebSockets have the method ``*``; FastAPI's
    own pages are left out.
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
    return found.union(*(_declarations(nested) for nested in dependant.dependencies))
