"""Every route says who may use it, and none tells an organizer about the drafts of another."""

from typing import Any

import httpx
from fastapi import FastAPI

from shared.auth.access import UNDECLARED, declared_access
from shared.contracts.events import EventCreatedV1
from shared.ids import new_id
from testkit.plugin import TokenFactory

NOT_OURS = ("/healthz/live", "/healthz/ready", "/metrics", "/docs")


async def test_no_route_shows_or_changes_a_draft_of_another_organizer(
    app: FastAPI, client: httpx.AsyncClient, tokens: TokenFactory, tell_of_event: Any, create_ticket: Any
) -> None:
    event_id = await tell_of_event(EventCreatedV1, state="draft")
    ticket = await create_ticket(event_id)
    bodies: dict[str, dict[str, Any]] = {
        "PATCH": {"name": "Mine"},
        "POST": {"name": "Mine", "type": "free"},
        "PUT": {"ticket_ids": [ticket["id"]]},
    }
    access = {route: who for route, who in declared_access(app).items() if not route[1].startswith(NOT_OURS)}
    assert UNDECLARED not in access.values()
    tried = 0
    for (method, path), who in access.items():
        if method == "HEAD" or "{name" in path:
            continue
        assert "{" in path, "a path without an id needs a test of its own"
        for reference in (str(event_id), "k3x9q0ab"):
            address = path.format(event_ref=reference, event_id=event_id, ticket_id=ticket["id"])
            missing = path.format(event_ref=new_id(), event_id=new_id(), ticket_id=new_id())
            body = bodies.get(method)
            if who == "internal":
                answer = await client.request(
                    method, address, params={"organizer": "other"}, headers=tokens.service("exports")
                )
                forbidden = await client.request(
                    method, address, params={"organizer": "acme"}, headers=tokens.organizer()
                )
                assert forbidden.status_code == 403, (method, path)
            else:
                answer = await client.request(method, address, json=body, headers=tokens.organizer("other"))
                unknown = await client.request(method, missing, json=body, headers=tokens.organizer("other"))
                assert _body(answer) == _body(unknown)
            assert answer.status_code == 404, (method, path)
            nobody = await client.request(method, address, json=body)
            assert nobody.status_code == (404 if "public" in who else 401), (method, path)
            tried += 1
    assert tried == 12
    shown = await client.get(f"/v1/tickets/{ticket['id']}", headers=tokens.organizer())
    assert shown.json() == ticket


def _body(answer: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name != "request_id"}


async def test_a_token_without_the_scope_sees_what_the_public_sees_and_changes_nothing(
    client: httpx.AsyncClient, tokens: TokenFactory, tell_of_event: Any, create_ticket: Any, names: Any
) -> None:
    event_id = await tell_of_event()
    hidden = await create_ticket(event_id, "Hidden", is_hidden=True)
    narrow = tokens.organizer(scope="events:read")
    listed = await client.get(f"/v1/events/{event_id}/tickets", headers=narrow)
    assert listed.json()["items"] == []
    assert (await client.get(f"/v1/tickets/{hidden['id']}", headers=narrow)).status_code == 404
    refused = await client.patch(f"/v1/tickets/{hidden['id']}", json={"name": "x"}, headers=narrow)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope-missing")


async def test_a_bad_token_is_refused_even_where_none_is_needed(
    client: httpx.AsyncClient, tell_of_event: Any
) -> None:
    event_id = await tell_of_event()
    answer = await client.get(f"/v1/events/{event_id}/tickets", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401


async def test_the_docs_describe_the_list_although_it_is_called_directly(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(operation["summary"] and operation["tags"] for operation in operations)
    assert not any(path.startswith("/internal") for path in document["paths"]), "these are for services only"
    listing = document["paths"]["/v1/events/{event_ref}/tickets"]["get"]
    assert [parameter["name"] for parameter in listing["parameters"]] == ["event_ref", "sales", "If-None-Match"]
    assert listing["parameters"][1]["schema"]["enum"] == ["open", "upcoming", "past"]
    content = listing["responses"]["200"]["content"]["application/json"]["schema"]
    page = document["components"]["schemas"][content["$ref"].rpartition("/")[2]]
    assert page["properties"]["items"]["items"]["$ref"].endswith("/TicketRead")
