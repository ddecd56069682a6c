"""The API documentation: one page for several services, with scripts of its own host only.

The gateway routes ``/docs`` to the service that serves the page and ``/docs/openapi/<service>.json`` to each
service's ``/openapi.json``.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from shared.problems import NotFound

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rostrum API</title>
<link rel="icon" href="/docs/assets/favicon.png">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="stylesheet" href="/docs/assets/page.css">
</head>
<body>
<nav aria-label="Services"><strong>Rostrum API</strong>%(links)s</nav>
<main id="api"></main>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/page.js"></script>
</body>
</html>
"""

_STYLE = """\
body { margin: 0; font-family: system-ui, sans-serif; }
nav { display: flex; gap: .5rem; padding: .75rem 1.25rem; background: #1b2733; align-items: center; }
nav strong { color: #fff; margin-right: 1rem; }
nav a { color: #d5dee6; padding: .35rem .8rem; border-radius: .3rem; text-decoration: none; }
nav a[aria-current] { background: #fff; color: #1b2733; }
"""

# Only scripts and styles of this host, none inline. `data:` is for the pictures in Swagger UI's styles.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_SCRIPT = """\
"use strict";
const links = [...document.querySelectorAll("nav a")];
function show() {
  const chosen = links.find((link) => link.hash === location.hash) || links[0];
  for (const link of links) link.removeAttribute("aria-current");
  chosen.setAttribute("aria-current", "page");
  SwaggerUIBundle({
    url: `/docs/openapi/${chosen.hash.slice(1)}.json`,
    dom_id: "#api",
    deepLinking: false,
    persistAuthorization: true,
    validatorUrl: null,
  });
}
addEventListener("hashchange", show);
show();
"""


def docs_router(services: Sequence[str]) -> APIRouter:
    """Return the routes of the page that shows these services, the first one at the start."""
    router = APIRouter(include_in_schema=False)
    links = "".join(f'<a href="#{name}">{name}</a>' for name in services)

    @router.get("/docs")
    async def docs_page() -> HTMLResponse:
        return HTMLResponse(_PAGE % {"links": links}, headers={"Content-Security-Policy": _POLICY})

    @router.get("/docs/assets/page.js")
    async def docs_script() -> Response:
        return Response(_SCRIPT, media_type="text/javascript; charset=utf-8")

    @router.get("/docs/assets/page.css")
    async def docs_style() -> Response:
        return Response(_STYLE, media_type="text/css; charset=utf-8")

    @router.get("/docs/assets/{name}")
    async def docs_asset(name: str) -> FileResponse:
        if name not in _ASSETS:
            raise NotFound(f"The documentation has no asset {name!r}. Its page is /docs.")
        path = Path(str(files("fastapi_offline"))) / "static" / name
        return FileResponse(path, media_type=_ASSETS[name], headers={"Cache-Control": "public, max-age=86400"})

    return router
