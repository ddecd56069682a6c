"""Whose drafts a caller may read. The rest of the access rules stands in each query."""

from typing import Annotated

from fastapi import Depends, Path, Request

from shared.tokens import PUBLIC, Principal, requires

# Dependencies are coroutines, also those that wait for nothing: FastAPI runs the others in threads.


async def _reader(principal: Annotated[Principal | None, Depends(PUBLIC)]) -> str | None:
    return principal.org if principal is not None and principal.has("events:read") else None


Reader = Annotated[str | None, Depends(_reader)]
"""The organizer whose own, unpublished things may be shown; ``None`` for the public."""


async def _organizer(principal: Annotated[Principal, Depends(requires("events:write"))]) -> str:
    assert principal.org is not None  # noqa: S101 - `requires` has seen to it
    return principal.org


Organizer = Annotated[str, Depends(_organizer)]
"""The organizer whose things may be changed."""

EventReference = Annotated[str, Path(description="The event's `id` or its `identifier`.", examples=["k3x9q0ab"])]


async def _public_url(request: Request) -> str:
    return str(request.app.state.settings.public_url).rstrip("/")


PublicUrl = Annotated[str, Depends(_public_url)]


def fresh_headers(tag: str) -> dict[str, str]:
    """For an answer that may be kept as long as its ``ETag`` is asked for each time: organizers see more."""
    return {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Authorization"}
