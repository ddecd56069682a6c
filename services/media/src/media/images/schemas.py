"""What the API returns of images and accepts."""

from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field

from media.images.rules import STATES
from media.models import Image
from shared.contracts.media import ImageKind, ImageSummary, ImportedImage
from shared.contracts.problem import ProblemDocument
from shared.http.etags import etag_of

State = Literal["received", "processing", "ready", "rejected"]


class OriginalRead(BaseModel):
    """The uploaded file."""

    width: int = Field(description="Pixels, as stored in the file.")
    height: int = Field(description="Pixels, as stored in the file.")
    size: int = Field(description="Bytes.")
    format: str


class VariantRead(BaseModel):
    """A JPEG. Its URL needs no token and its content never changes."""

    name: str
    url: str
    width: int
    height: int
    size: int = Field(description="Bytes.")


class ImageRead(BaseModel):
    id: UUID
    kind: ImageKind
    name: str = Field(description="The sender's file name.")
    state: State
    original: OriginalRead
    variants: list[VariantRead] = Field(description="Empty until the state is `ready`.")
    saved_bytes: int | None = Field(
        description="The original's size minus that of the largest variant, once the state is `ready`."
    )
    error: ProblemDocument | None = Field(description="Why the image was rejected, and the way out.")
    created_at: datetime

    @classmethod
    def of(cls, image: Image, public_url: str) -> "ImageRead":
        variants = [
            VariantRead(
                name=variant.name,
                url=f"{public_url.rstrip('/')}{variant.path}",
                width=variant.width,
                height=variant.height,
                size=variant.size,
            )
            for variant in image.variants
        ]
        return cls.model_validate(
            {
                "id": image.id,
                "kind": image.kind,
                "name": image.name,
                "state": STATES[image.state],
                "original": OriginalRead(
                    width=image.width, height=image.height, size=image.size, format=image.format
                ),
                "variants": variants,
                "saved_bytes": image.size - max(variant.size for variant in variants) if variants else None,
                "error": image.error,
                "created_at": image.created_at,
            }
        )


def etag(image: Image) -> str:
    """Return the image's tag; it contains the state because a job changes that without a new version."""
    return etag_of(f"{image.version}-{STATES[image.state]}")


class ImportedImageRead(ImportedImage):
    @classmethod
    def of(cls, image: Image) -> Self:
        return cls(image_id=image.id, state=STATES[image.state])


class ImageSummaryRead(ImageSummary):
    @classmethod
    def of(cls, image: Image) -> Self:
        return cls(
            image_id=image.id,
            state=STATES[image.state],
            format=image.format,
            variants=[variant.published() for variant in image.variants],
        )
