"""Every route declares its access, and none shows an organizer the drafts of another."""

from typing import Any

import httpx
from fastapi import FastAPI

from services.tickets.tests.factories import CreateTicket, ListNames, ReceiveEvent
from shared.contracts.events import EventCreatedV1
from shared.ids import new_id
from testkit.access import UNDECLARED, declared_access
from testkit.plugin import TokenFactory

SHARED_PATHS = ("/healthz/live", "/healthz/ready", "/metrics", "/docs")


async def test_no_route_reads_or_changes_a_draft_of_another_organizer(
    app: FastAPI,
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
) -> None:
    event_id = await receive_event(EventCreatedV1, state="draft")
    ticket = await create_ticket(event_id)
    bodies: dict[str, dict[str, Any]] = {
        "PATCH": {"name": "Mine"},
        "POST": {"name": "Mine", "type": "free"},
        "PUT": {"ticket_ids": [ticket["id"]]},
    }
    access = {
        route: scope for route, scope in declared_access(app).items() if not route[1].startswith(SHARED_PATHS)
    }
    assert UNDECLARED not in access.values()
    tried = 0
    for (method, path), scope in access.items():
        if method == "HEAD" or "{name" in path:
            continue
        assert "{" in path, "a path without an id requires its own test"
        for reference in (str(event_id), "k3x9q0ab"):
            address = path.format(event_ref=reference, event_id=event_id, ticket_id=ticket["id"])
            missing = path.format(event_ref=new_id(), event_id=new_id(), ticket_id=new_id())
            body = bodies.get(method)
            if scope == "internal":
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
            public = await client.request(method, address, json=body)
            assert public.status_code == (404 if "public" in scope else 401), (method, path)
            tried += 1
    assert tried == 12
    read = await client.get(f"/v1/tickets/{ticket['id']}", headers=tokens.organizer())
    assert read.json() == ticket


def _body(answer: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name != "request_id"}


async def test_a_token_without_the_scope_reads_as_the_public_and_changes_nothing(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    names: ListNames,
) -> None:
    event_id = await receive_event()
    hidden = await create_ticket(event_id, "Hidden", is_hidden=True)
    narrow = tokens.organizer(scope="events:read")
    listed = await client.get(f"/v1/events/{event_id}/tickets", headers=narrow)
    assert listed.json()["items"] == []
    assert (await client.get(f"/v1/tickets/{hidden['id']}", headers=narrow)).status_code == 404
    refused = await client.patch(f"/v1/tickets/{hidden['id']}", json={"name": "x"}, headers=narrow)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope-missing")


async def test_an_invalid_token_is_refused_where_none_is_required(
    client: httpx.AsyncClient, receive_event: ReceiveEvent
) -> None:
    event_id = await receive_event()
    answer = await client.get(f"/v1/events/{event_id}/tickets", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401


async def test_the_docs_describe_the_list_although_its_route_is_raw(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(operation["summary"] and operation["tags"] for operation in operations)
    assert not any(path.startswith("/internal") for path in document["paths"]), "for services only"
    listing = document["paths"]["/v1/events/{event_ref}/tickets"]["get"]
    assert [parameter["name"] for parameter in listing["parameters"]] == ["event_ref", "sales", "If-None-Match"]
    assert listing["parameters"][1]["schema"]["enum"] == ["open", "upcoming", "past"]
    content = listing["responses"]["200"]["content"]["application/json"]["schema"]
    page = document["components"]["schemas"][content["$ref"].rpartition("/")[2]]
    assert page["properties"]["items"]["items"]["$ref"].endswith("/TicketRead")
