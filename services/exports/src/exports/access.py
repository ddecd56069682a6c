"""Whose imports and exports a caller may see: those of the organizer that the token names."""

from typing import Annotated

from fastapi import Depends

from shared.tokens import Principal, requires

ImportWriter = Annotated[Principal, Depends(requires("imports:write"))]
ExportReader = Annotated[Principal, Depends(requires("exports:read"))]
ExportWriter = Annotated[Principal, Depends(requires("exports:write"))]


def organizer_of(principal: Principal) -> str:
    assert principal.org is not None  # noqa: S101 - `requires` refuses tokens without one
    return principal.org
