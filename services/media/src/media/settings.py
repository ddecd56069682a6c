from shared.settings import MEBIBYTE, Settings, StorageSettings


class MediaSettings(StorageSettings, Settings):
    """Sizes are bytes."""

    service: str = "media"
    max_image_size: int = 10 * MEBIBYTE
    conversions_at_once: int = 2
