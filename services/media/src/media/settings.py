from pydantic import Field

from shared.settings import MEBIBYTE, Settings, StorageSettings


class MediaSettings(StorageSettings, Settings):
    service: str = "media"
    max_image_size: int = Field(default=10 * MEBIBYTE, description="Bytes of an upload.")
    conversions_at_once: int = Field(default=2, description="Of one worker; each decodes in a process of its own.")
