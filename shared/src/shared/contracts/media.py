"""Messages that the media service sends."""

from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from shared.contracts.envelope import Message


class ImageVariant(BaseModel):
    """One rendering. ``path`` is below the gateway's address; sizes are pixels and bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    path: str
    width: int
    height: int
    size: int


class ImageProcessedV1(Message):
    """All variants of an image can be fetched."""

    message_type: ClassVar[str] = "media.image.processed.v1"

    image_id: UUID
    kind: str
    variants: list[ImageVariant]
