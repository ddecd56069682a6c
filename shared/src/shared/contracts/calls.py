"""What the requests of internal HTTP calls have in common.

A receiver refuses what it does not know, or keeps it, and never drops it: callers of a later release lose nothing.
"""

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, StringConstraints

from shared.texts import Storable

Organizer: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200), Storable]
"""The tenant on whose behalf a service calls."""


class Request(BaseModel):
    """A query or body that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OrganizerQuery(Request):
    """The query of calls that read what belongs to an organizer; anything else is 404."""

    organizer: Organizer
