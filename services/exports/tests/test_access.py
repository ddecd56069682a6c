"""Every route declares its access, and none reveals the imports and exports of another organizer."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from exports.exports.tasks import run_export
from exports.imports.tasks import run_import
from exports.resources import Resources
from services.exports.tests.factories import Members, Upload, zipped
from shared.ids import new_id
from testkit.access import UNDECLARED, declared_access
from testkit.plugin import Live, TokenFactory

NOT_OURS = ("/healthz/live", "/healthz/ready", "/metrics", "/docs")
FILES = "/v1/exports/files/{key}"


async def test_no_route_gives_access_to_another_organizer(
    live: Live, resources: Resources, tokens: TokenFactory, upload: Upload, members: Members
) -> None:
    own, other = tokens.organizer(), tokens.organizer("other")
    imported = (await upload(zipped(members))).json()
    await run_import(resources, UUID(imported["id"]))
    event_id = (await live.client.get(f"/v1/imports/{imported['id']}", headers=own)).json()["event_id"]
    export = (await live.client.post(f"/v1/events/{event_id}/exports", headers=own)).json()
    await run_export(resources, UUID(export["id"]))
    real = {"import_id": imported["id"], "event_ref": event_id, "export_id": export["id"]}

    access = {route: who for route, who in declared_access(live.app).items() if not route[1].startswith(NOT_OURS)}
    assert UNDECLARED not in access.values()
    tried = set()
    for (method, path), who in access.items():
        if path.startswith("/v1/exports/files/"):
            assert who == "public"  # the link's signature is the permission; see the tests of downloads
            continue
        address = path.format(**real)
        assert (await live.client.request(method, address)).status_code == 401, (method, path)
        weak = await live.client.request(method, address, headers=tokens.organizer(scope="events:read"))
        assert (weak.status_code, weak.json()["code"]) == (403, "scope-missing"), (method, path)
        if "{" not in path:
            continue
        answer = await live.client.request(method, address, headers=other)
        assert answer.status_code == 404, (method, path)
        unknown = path.format(**{name: new_id() for name in real})
        assert _body(answer) == _body(await live.client.request(method, unknown, headers=other))
        tried.add((method, path))
    assert len(tried) == 7
    for path in ("/v1/imports", f"/v1/events/{event_id}/exports"):
        assert len((await live.client.get(path, headers=own)).json()["items"]) == 1
    assert (await live.client.get("/v1/imports", headers=other)).json()["items"] == []


@pytest.mark.parametrize("path", ["/v1/imports/zzz", "/v1/exports/zzz", "/v1/exports/zzz/download"])
async def test_malformed_id_is_refused(client: httpx.AsyncClient, tokens: TokenFactory, path: str) -> None:
    answer = await client.get(path, headers=tokens.organizer())
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_every_operation_has_a_summary_and_a_tag(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == 10
    assert all(operation["summary"] and operation["tags"] for operation in operations)


def _body(answer: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name != "request_id"}
