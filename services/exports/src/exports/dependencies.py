"""What routes of this service declare as parameters."""

import asyncio
from typing import Annotated

from fastapi import Depends, Path, Request

from exports.clients.calls import PeerServices
from exports.progress.service import IsOver
from exports.settings import ExportsSettings
from shared.http.dependencies import Stopping, state

SettingsDep = Annotated[ExportsSettings, Depends(state("settings"))]
PeersDep = Annotated[PeerServices, Depends(state("peers"))]
ReadingDep = Annotated[asyncio.Lock, Depends(state("reading"))]
"""Held while an archive is read, so that one at a time uses the memory that this takes."""
EventReference = Annotated[str, Path(description="The event's `id` or its `identifier`.", examples=["k3x9q0ab"])]


async def _stream_is_over(request: Request, stopping: Stopping) -> IsOver:
    async def is_over() -> bool:
        return stopping.is_set() or await request.is_disconnected()

    return is_over


StreamIsOver = Annotated[IsOver, Depends(_stream_is_over)]
"""The caller has left, or the process is about to stop; a caller that asks again reaches another one."""
