"""HTTP of whole events, for other services."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from events.access import EventReference
from events.interchange import service
from shared.auth.access import SERVICE_ONLY
from shared.contracts.calls import OrganizerQuery
from shared.contracts.programme import Programme, ProgrammeImport, ProgrammeImported
from shared.http.dependencies import SessionDep
from shared.http.responses import json_response
from shared.settings import MEBIBYTE

MAX_PROGRAMME_SIZE = 64 * MEBIBYTE

internal = APIRouter(
    prefix="/internal/programmes",
    tags=["internal"],
    dependencies=[Depends(SERVICE_ONLY)],
    include_in_schema=False,
)


@internal.post(
    "",
    status_code=201,
    response_model=ProgrammeImported,
    responses={200: {"model": ProgrammeImported, "description": "This import was done before."}},
    max_body_size=MAX_PROGRAMME_SIZE,
    summary="Create an event with its whole programme",
)
async def import_programme(body: ProgrammeImport, session: SessionDep) -> Response:
    imported, is_new = await service.import_programme(session, body)
    return json_response(imported, status=201 if is_new else 200)


@internal.get("/{event_ref}", response_model=Programme, summary="Read an event with its whole programme")
async def export_programme(
    event_ref: EventReference, query: Annotated[OrganizerQuery, Query()], session: SessionDep
) -> Response:
    return json_response(await service.export_programme(session, event_ref, query.organizer))
