"""Role 1: the HTTP interface."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from exports.clients.calls import open_peers
from exports.exports import router as exports
from exports.imports import router as imports
from exports.settings import ExportsSettings
from shared.http.app import new_app
from shared.http.server import run_api
from shared.storage import open_storage

DESCRIPTION = """\
Import an Open Event archive of any dialect as an event, and export a whole event as one zip.

Both are jobs: the answer is 202 with a `Location`. Poll it, or follow its `/progress` as server-sent events, until
`state` is `done` or `failed`.
"""


def create_app(settings: ExportsSettings) -> FastAPI:
    @asynccontextmanager
    async def with_storage_and_peers(app: FastAPI) -> AsyncIterator[None]:
        async with open_storage(settings) as storage, open_peers(settings) as peers:
            app.state.storage = storage
            app.state.peers = peers
            app.state.reading = asyncio.Lock()
            app.state.checks["storage"] = storage.check
            yield

    return new_app(
        settings,
        routers=[imports.router, exports.files, exports.router],
        title="Rostrum exports",
        description=DESCRIPTION,
        resources=with_storage_and_peers,
    )


if __name__ == "__main__":
    settings = ExportsSettings()
    run_api(create_app(settings), settings)
