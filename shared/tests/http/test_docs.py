from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from shared.http.docs import docs_router
from shared.http.problems import add_problem_handlers


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(docs_url=None, redoc_url=None)
    add_problem_handlers(app)
    app.include_router(docs_router(["walls", "doors"]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://probe.test") as client:
        yield client


async def test_the_page_lists_the_services_in_the_given_sequence(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    assert '<a href="#walls">walls</a><a href="#doors">doors</a>' in page


async def test_the_page_loads_nothing_from_another_host(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "page.js", "page.css", "favicon.png"):
        assert f"/docs/assets/{asset}" in page.text
        assert (await client.get(f"/docs/assets/{asset}")).status_code == 200


async def test_other_files_of_the_package_are_not_served(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs/assets/redoc.standalone.js")
    assert (response.status_code, response.json()["code"]) == (404, "not-found")
