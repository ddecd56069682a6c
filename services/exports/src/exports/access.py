"""Whose imports and exports a caller may see: those of the organizer that the token names."""

from typing import Annotated

from fastapi import Depends

from shared.auth.access import Requires
from shared.auth.verify import OrganizerPrincipal

ImportWriter = Annotated[OrganizerPrincipal, Depends(Requires("imports:write"))]
ExportReader = Annotated[OrganizerPrincipal, Depends(Requires("exports:read"))]
ExportWriter = Annotated[OrganizerPrincipal, Depends(Requires("exports:write"))]
