"""Access to imports and exports: a caller sees those of the organizer in its token."""

from typing import Annotated

from fastapi import Depends

from shared.auth.access import Requires
from shared.auth.verify import OrganizerPrincipal

ImportWriter = Annotated[OrganizerPrincipal, Depends(Requires("imports:write"))]
ExportReader = Annotated[OrganizerPrincipal, Depends(Requires("exports:read"))]
ExportWriter = Annotated[OrganizerPrincipal, Depends(Requires("exports:write"))]
