"""Whose drafts a caller may read. The rest of the access rules stands in each query."""

from typing import Annotated

from fastapi import Depends, Path, Request

from shared.auth.access import organizer, reader

Reader = Annotated[str | None, Depends(reader("events:read"))]
"""The organizer whose own, unpublished things may be shown; ``None`` for the public."""


Organizer = Annotated[str, Depends(organizer("events:write"))]
"""The organizer whose things may be changed."""

EventReference = Annotated[str, Path(description="The event's `id` or its `identifier`.", examples=["k3x9q0ab"])]


async def _public_url(request: Request) -> str:
    return str(request.app.state.settings.public_url).rstrip("/")


PublicUrl = Annotated[str, Depends(_public_url)]


def fresh_headers(tag: str) -> dict[str, str]:
    """For an answer that may be kept as long as its ``ETag`` is asked for each time: organizers see more."""
    return {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Authorization"}
