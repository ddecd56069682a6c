"""What routes declare as parameters. All are coroutines: FastAPI runs plain functions in a thread."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from sqlalchemy.ext.asyncio import AsyncSession

from shared.database.engine import Sessions, is_unavailable
from shared.http.problems import OUTCOME_UNKNOWN
from shared.problems import Unavailable
from shared.settings import Settings
from shared.storage.interface import Storage
from shared.storage.transit import FilesInTransit
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match", description="The `ETag` that was read; the change is refused with 412 if it is outdated."
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match", description="The `ETag` that is known; the response is 304 when it is still current."
    ),
]


def state(name: str) -> Callable[[Request], Awaitable[Any]]:
    """Return a dependency that reads ``app.state.<name>``.

    The annotation gives it its type: ``SettingsDep = Annotated[MediaSettings, Depends(state("settings"))]``.
    """

    async def read_state(request: Request) -> Any:
        return getattr(request.app.state, name)

    return read_state


SessionsDep = Annotated[Sessions, Depends(state("sessions"))]
StorageDep = Annotated[Storage, Depends(state("storage"))]
Stopping = Annotated[asyncio.Event, Depends(state("stopping"))]
"""Set when the process shuts down, so that streams end."""


async def _public_url(settings: Annotated[Settings, Depends(state("settings"))]) -> str:
    return settings.public_url


PublicUrl = Annotated[str, Depends(_public_url)]
"""The gateway's address without a slash at its end, for links."""


class OutcomeUnknown(Unavailable):
    """The connection was lost during COMMIT."""

    code = "outcome-unknown"
    title = "Outcome unknown"

    def __init__(self) -> None:
        super().__init__(
            f"The database connection was lost during the commit. {OUTCOME_UNKNOWN}", headers={"Retry-After": "2"}
        )


async def _session_of_request(request: Request, sessions: SessionsDep) -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session
        await session.flush()
        try:
            await session.commit()
        except Exception as error:
            if request.method in _SAFE_METHODS or server_refused(error):
                raise
            log.error("database.commit_lost", error_type=type(error).__name__, exc_info=error)
            raise OutcomeUnknown from error
        request.state.is_committed = True


def server_refused(error: Exception) -> bool:
    """Return whether PostgreSQL answered COMMIT with an error, and so has rolled the transaction back."""
    sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
    return sqlstate is not None and not is_unavailable(error)


# Scope "function": the commit runs after the endpoint and before the response is sent. With the default scope the
# 200 would be out before a commit can fail.
SessionDep = Annotated[AsyncSession, Depends(_session_of_request, scope="function")]


async def _files_of_request(sessions: SessionsDep, storage: StorageDep) -> AsyncIterator[FilesInTransit]:
    files = FilesInTransit(sessions, storage)
    try:
        yield files
    except BaseException:
        await files.settle(committed=False)
        raise
    await files.settle(committed=True)


# Must stand before ``SessionDep`` among a route's parameters: it then ends after the commit and sees it fail.
FilesInTransitDep = Annotated[FilesInTransit, Depends(_files_of_request, scope="function")]
