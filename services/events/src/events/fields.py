"""Types of request fields that several features share."""

from typing import Annotated, TypeAlias

from pydantic import Field, StringConstraints

from shared.contracts.programme import ADDRESS_LENGTH, LINE_LENGTH, PROSE_LENGTH
from shared.texts import Storable

Name: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=LINE_LENGTH, strip_whitespace=True), Storable
]
Line: TypeAlias = Annotated[str, StringConstraints(max_length=LINE_LENGTH), Storable]
Prose: TypeAlias = Annotated[str, StringConstraints(max_length=PROSE_LENGTH), Storable]
WebAddress: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=ADDRESS_LENGTH, pattern=r"^https?://[^\s\x00]+$"),
    Storable,
    Field(examples=["https://example.org/"]),
]
Latitude: TypeAlias = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Longitude: TypeAlias = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
Fold: TypeAlias = Annotated[
    int,
    Field(ge=0, le=1, description="Chooses between two equal local times: 0 for the first, 1 for the second."),
]
