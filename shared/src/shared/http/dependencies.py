from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Request
from sqlalchemy.ext.asyncio import AsyncSession

from shared.database.engine import Sessions
from shared.storage.transit import FilesInTransit

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match", description="The `ETag` that was read; the change is refused with 412 when it is old."
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="The `ETag` that is known; the answer is 304 when it still holds."),
]


async def _session_of_request(request: Request) -> AsyncIterator[AsyncSession]:
    sessions: Sessions = request.app.state.sessions
    async with sessions() as session:
        yield session
        await session.commit()


# Scope "function": the commit runs after the endpoint and before the response is sent. With the default scope a
# failed commit would be told to nobody, as the 200 is out already.
SessionDep = Annotated[AsyncSession, Depends(_session_of_request, scope="function")]


async def _files_of_request(request: Request) -> AsyncIterator[FilesInTransit]:
    files = FilesInTransit(request.app.state.sessions, request.app.state.storage)
    try:
        yield files
    except BaseException:
        await files.settle(committed=False)
        raise
    await files.settle(committed=True)


# To stand before ``SessionDep`` among a route's parameters: it then ends after the commit and sees it fail.
FilesInTransitDep = Annotated[FilesInTransit, Depends(_files_of_request, scope="function")]
