from typing import Annotated, TypeAlias

from pydantic import Field

from shared.walltime import MAX_LENGTH

WallTimeInput: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_LENGTH,
        description=(
            "A time at the venue: local (`2026-10-25T14:30`, in the event's zone), with an offset (RFC 3339), or "
            "with the event's zone in brackets (RFC 9557). A local time that does not exist or is ambiguous is "
            "refused with the alternatives."
        ),
        examples=["2026-10-25T14:30", "2026-10-25T14:30:00+01:00", "2026-10-25T14:30[Europe/Berlin]"],
    ),
]
"""Bounded text for request models. The use case, which knows the event's zone, calls ``resolve``."""
