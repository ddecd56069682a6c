from pydantic import Field

from shared.settings import MEBIBYTE, Settings, StorageSettings


class ExportsSettings(StorageSettings, Settings):
    """Sizes are bytes, times are seconds."""

    service: str = "exports"
    events_url: str = "http://127.0.0.1:8001"
    tickets_url: str = "http://127.0.0.1:8002"
    media_url: str = "http://127.0.0.1:8003"
    max_archive_size: int = 256 * MEBIBYTE
    max_image_size: int = Field(
        default=10 * MEBIBYTE,
        description="The limit of the media service: larger images are reported without being sent.",
    )
    download_link_lifetime: int = 15 * 60
    export_lifetime: int = 7 * 24 * 3600
