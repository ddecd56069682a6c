"""What other services know of media: its messages, and the kinds of images."""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.envelope import Message

ImageKind = Literal["event", "speaker", "sponsor", "other"]
"""What an image shows, which decides the sizes of its variants."""


class ImageVariant(BaseModel):
    """A variant of an image, a JPEG."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(description="`large`, `thumbnail` or `icon`; readers must accept other values.")
    path: str = Field(description="Where it is served, relative to the gateway. Other content has another path.")
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    size: int = Field(description="Bytes.")


class ImageProcessedV1(Message):
    """All variants of an image are stored and served."""

    message_type: ClassVar[str] = "media.image.processed.v1"

    image_id: UUID = Field(description="The image. The envelope's `subject` is the same id.")
    kind: str = Field(
        description="What it shows: `event`, `speaker`, `sponsor` or `other`; readers must accept other values."
    )
    variants: list[ImageVariant] = Field(description="All variants, the largest first.")
