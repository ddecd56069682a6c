"""Whose images a caller may use: those of the organizer that the token names."""

from typing import Annotated

from fastapi import Depends

from media.settings import MediaSettings
from shared.auth.access import Requires
from shared.auth.verify import OrganizerPrincipal
from shared.http.dependencies import state

ImageReader = Annotated[OrganizerPrincipal, Depends(Requires("media:read"))]
ImageWriter = Annotated[OrganizerPrincipal, Depends(Requires("media:write"))]
SettingsDep = Annotated[MediaSettings, Depends(state("settings"))]
