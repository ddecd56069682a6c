"""What the API shows of images, and takes."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from media.images.rules import STATES, variant_path
from media.images.sizes import ImageKind
from media.models import Image
from shared.contracts.problem import ProblemDocument
from shared.http.etags import etag_of
from shared.texts import Storable

State = Literal["received", "processing", "ready", "rejected"]
Organizer = Annotated[str, Field(min_length=1, max_length=200), Storable]


class OriginalRead(BaseModel):
    """What was uploaded: pixels as stored in the file, bytes."""

    width: int
    height: int
    size: int
    format: str


class VariantRead(BaseModel):
    """A JPEG. Its address needs no token and never changes its content; whoever has it may fetch it."""

    name: str
    url: str
    width: int
    height: int
    size: int = Field(description="Bytes.")


class ImageRead(BaseModel):
    id: UUID
    kind: ImageKind
    name: str = Field(description="What the uploader called the file.")
    state: State
    original: OriginalRead
    variants: list[VariantRead] = Field(description="Empty until the state is `ready`.")
    saved_bytes: int | None = Field(
        description="The original's size less that of the largest variant, once the state is `ready`."
    )
    error: ProblemDocument | None = Field(description="Why it was rejected, and the way out.")
    created_at: datetime

    @classmethod
    def of(cls, image: Image, public_url: str) -> "ImageRead":
        variants = [
            VariantRead(
                name=variant.name,
                url=f"{public_url}{variant_path(image.id, variant.name, variant.digest)}",
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
    """The state is in it because a job changes its state without a new version."""
    return etag_of(f"{image.version}-{STATES[image.state]}")


class ImportedImage(BaseModel):
    image_id: UUID
    state: State


class StatesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    organizer: Organizer
    image_ids: list[UUID] = Field(max_length=500)


class VariantPath(BaseModel):
    name: str
    path: str = Field(description="Below the gateway's address.")
    width: int
    height: int
    size: int


class ImageState(BaseModel):
    """``format`` is that of the original: PNG, JPEG, WEBP or GIF."""

    image_id: UUID
    state: State
    format: str
    variants: list[VariantPath]

    @classmethod
    def of(cls, image: Image) -> "ImageState":
        return cls.model_validate(
            {
                "image_id": image.id,
                "state": STATES[image.state],
                "format": image.format,
                "variants": variant_paths(image),
            }
        )


class ImageStates(BaseModel):
    """In the order asked for; ids that are not this organizer's images are left out."""

    images: list[ImageState]


def variant_paths(image: Image) -> list[VariantPath]:
    return [
        VariantPath(
            name=variant.name,
            path=variant_path(image.id, variant.name, variant.digest),
            width=variant.width,
            height=variant.height,
            size=variant.size,
        )
        for variant in image.variants
    ]
