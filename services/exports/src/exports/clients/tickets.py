"""Calls to the tickets service."""

from uuid import UUID

from exports.clients.calls import PeerServices, call, parsed
from shared.contracts.calls import OrganizerQuery
from shared.contracts.tickets import EventTickets, ExportedTicket
from shared.problems import Problem


async def list_tickets(peers: PeerServices, event_id: UUID, organizer: str) -> list[ExportedTicket]:
    """Return all tickets of the organizer's event, by position."""
    url = f"{peers.tickets_url}/internal/events/{event_id}/tickets"
    try:
        response = await call(peers, "GET", url, query=OrganizerQuery(organizer=organizer))
    except Problem as problem:
        if problem.status == 404:  # the message about the event has not arrived there yet, so it has no tickets
            return []
        raise
    return parsed(EventTickets, response).tickets
