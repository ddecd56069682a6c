"""Role 1: the HTTP interface."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from media.images import internal
from media.images.router import router as images
from media.settings import MediaSettings
from shared.http.app import new_app
from shared.http.server import run_api
from shared.storage import open_storage


def create_app(settings: MediaSettings) -> FastAPI:
    @asynccontextmanager
    async def with_storage(app: FastAPI) -> AsyncIterator[None]:
        async with open_storage(settings) as storage:
            app.state.storage = storage
            app.state.checks["storage"] = storage.check
            yield

    return new_app(
        settings,
        routers=[images, internal.router],
        title="Rostrum media",
        description="Images: upload a PNG, JPEG, WebP or GIF, get small JPEGs in three sizes.",
        resources=with_storage,
    )


if __name__ == "__main__":
    settings = MediaSettings()
    run_api(create_app(settings), settings)
