"""Access declarations of the routes. The rest of the access rules stands in each query."""

from typing import Annotated

from fastapi import Depends, Path

from shared.auth.access import organizer, reader

reader_of = reader("tickets:read")
Reader = Annotated[str | None, Depends(reader_of)]
"""The organizer who may see its own drafts and hidden tickets; ``None`` for the public."""

Organizer = Annotated[str, Depends(organizer("tickets:write"))]
"""The organizer whose tickets may be changed."""

EventReference = Annotated[str, Path(description="The event's `id` or its `identifier`.", examples=["k3x9q0ab"])]
