"""The API's documentation: one page for all four services, with scripts of our own host only.

Every service can serve the page; the gateway sends ``/docs`` to one of them and ``/docs/openapi/<service>.json``
to each service's ``/openapi.json``.
"""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from shared.problems import NotFound

SERVICES = ("events", "tickets", "media", "exports")

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

# Scripts and styles of this host only, none within the page; `data:` is for the pictures in Swagger UI's styles.
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


def docs_router() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    links = "".join(f'<a href="#{name}">{name}</a>' for name in SERVICES)

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
            raise NotFound("There is no such part of the documentation.")
        path = Path(str(files("fastapi_offline"))) / "static" / name
        return FileResponse(path, media_type=_ASSETS[name], headers={"Cache-Control": "public, max-age=86400"})

    return router
