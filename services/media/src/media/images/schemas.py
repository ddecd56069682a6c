"""What the API returns of images and accepts."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from media.images.rules import STATES
from media.models import Image
from shared.contracts.media import ImageKind, ImageVariant
from shared.contracts.problem import ProblemDocument
from shared.http.etags import etag_of
from shared.texts import Storable

State = Literal["received", "processing", "ready", "rejected"]
Organizer = Annotated[str, Field(min_length=1, max_length=200), Storable]


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


class ImportedImage(BaseModel):
    image_id: UUID
    state: State

    @classmethod
    def of(cls, image: Image) -> "ImportedImage":
        return cls.model_validate({"image_id": image.id, "state": STATES[image.state]})


class StatesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    organizer: Organizer
    image_ids: list[UUID] = Field(max_length=500)


class ImageState(BaseModel):
    """``format`` is that of the original: PNG, JPEG, WEBP or GIF."""

    image_id: UUID
    state: State
    format: str
    variants: list[ImageVariant]

    @classmethod
    def of(cls, image: Image) -> "ImageState":
        return cls.model_validate(
            {
                "image_id": image.id,
                "state": STATES[image.state],
                "format": image.format,
                "variants": [variant.published() for variant in image.variants],
            }
        )


class ImageStates(BaseModel):
    """In the order of the query, without ids that are not this organizer's images."""

    images: list[ImageState]
