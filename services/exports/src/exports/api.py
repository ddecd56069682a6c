"""Role 1: the HTTP interface."""

from fastapi import FastAPI

from exports.settings import ExportsSettings
from shared.app import create_app, run_api


def create_exports(settings: ExportsSettings) -> FastAPI:
    return create_app(
        settings,
        routers=[],
        title="Rostrum exports",
        description="",
    )


if __name__ == "__main__":
    settings = ExportsSettings()
    run_api(create_exports(settings), settings)
