"""The tickets service, as this one needs it."""

from uuid import UUID

from pydantic import BaseModel, JsonValue

from exports.clients.calls import Neighbours, call
from shared.problems import Problem


class _Tickets(BaseModel):
    tickets: list[dict[str, JsonValue]]


async def list_tickets(neighbours: Neighbours, event_id: UUID, organizer: str) -> list[dict[str, JsonValue]]:
    """All tickets of an event that is this organizer's, in the organizer's order."""
    try:
        response = await call(
            neighbours,
            "GET",
            f"{neighbours.tickets_url}/internal/events/{event_id}/tickets",
            params={"organizer": organizer},
        )
    except Problem as problem:
        if problem.status == 404:  # tickets has not heard of the event yet, so it can't have any
            return []
        raise
    return _Tickets.model_validate_json(response.content).tickets
