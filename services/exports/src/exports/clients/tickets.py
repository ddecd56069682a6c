"""Calls to the tickets service."""

from uuid import UUID

from pydantic import BaseModel, JsonValue

from exports.clients.calls import PeerServices, call
from shared.problems import Problem


class _Tickets(BaseModel):
    tickets: list[dict[str, JsonValue]]


async def list_tickets(peers: PeerServices, event_id: UUID, organizer: str) -> list[dict[str, JsonValue]]:
    """Return all tickets of the organizer's event, by position."""
    try:
        response = await call(
            peers,
            "GET",
            f"{peers.tickets_url}/internal/events/{event_id}/tickets",
            params={"organizer": organizer},
        )
    except Problem as problem:
        if problem.status == 404:  # the message about the event has not arrived there yet, so it has no tickets
            return []
        raise
    return _Tickets.model_validate_json(response.content).tickets
