"""Role 1: the HTTP interface."""

from fastapi import FastAPI

from media.settings import MediaSettings
from shared.app import create_app, run_api


def create_media(settings: MediaSettings) -> FastAPI:
    return create_app(
        settings,
        routers=[],
        title="Rostrum media",
        description="",
    )


if __name__ == "__main__":
    settings = MediaSettings()
    run_api(create_media(settings), settings)
