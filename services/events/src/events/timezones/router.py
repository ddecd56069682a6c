from fastapi import APIRouter, Depends, Response

from events.timezones import service
from events.timezones.schemas import TimezoneList, TimezoneRead
from shared.auth.access import PUBLIC
from shared.problems import NotFound
from shared.walltime import UnknownZone

router = APIRouter(tags=["time zones"], dependencies=[Depends(PUBLIC)])


@router.get("/v1/timezones", response_model=TimezoneList, summary="List time zones")
async def list_timezones() -> Response:
    return Response(
        await service.list_timezones(),
        media_type="application/json",
        headers={"Cache-Control": "public, max-age=600"},
    )


@router.get("/v1/timezones/{name:path}", response_model=TimezoneRead, summary="Read a time zone")
async def read_timezone(name: str) -> TimezoneRead:
    try:
        return service.timezone(name)
    except UnknownZone as unknown:
        raise NotFound(unknown.detail) from None
