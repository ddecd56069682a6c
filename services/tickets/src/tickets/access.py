"""Who may read and who may change. The rest of the access rules stands in each query.

The dependencies are coroutines although they wait for nothing: FastAPI sends plain functions to a thread.
"""

from typing import Annotated

from fastapi import Depends, Path

from shared.tokens import PUBLIC, Principal, requires


async def reader_of(principal: Annotated[Principal | None, Depends(PUBLIC)]) -> str | None:
    return principal.org if principal is not None and principal.has("tickets:read") else None


Reader = Annotated[str | None, Depends(reader_of)]
"""The organizer whose own drafts and hidden tickets may be shown; ``None`` for the public."""


async def _organizer(principal: Annotated[Principal, Depends(requires("tickets:write"))]) -> str:
    assert principal.org is not None  # noqa: S101 - `requires` has seen to it
    return principal.org


Organizer = Annotated[str, Depends(_organizer)]
"""The organizer whose tickets may be changed."""

EventReference = Annotated[str, Path(description="The event's `id` or its `identifier`.", examples=["k3x9q0ab"])]
