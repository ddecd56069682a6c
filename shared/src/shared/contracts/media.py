"""What other services know of media: its messages, and the bodies of ``/internal/images``."""

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shared.contracts.calls import Organizer, Request
from shared.contracts.envelope import Message
from shared.texts import Storable

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


class ImageImport(Request):
    """Query of ``POST /internal/images``, whose body is the file.

    A repetition with the same organizer, import and name returns the same image.
    """

    organizer: Organizer
    import_id: UUID
    name: Annotated[str, StringConstraints(min_length=1, max_length=400), Storable]
    kind: ImageKind


class ImportedImage(BaseModel):
    """Answer to ``POST /internal/images``: 201, or 200 when the image was imported before."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    image_id: UUID
    state: str = Field(
        description="`received`, `processing`, `ready` or `rejected`; readers must accept other values."
    )


class ImageStatesQuery(Request):
    """Body of ``POST /internal/images/states``."""

    organizer: Organizer
    image_ids: list[UUID] = Field(max_length=500)


class ImageSummary(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    image_id: UUID
    state: str = Field(description="As in `ImportedImage`.")
    format: str = Field(description="Of the original: `PNG`, `JPEG`, `WEBP` or `GIF`.")
    variants: list[ImageVariant] = Field(description="Empty until the state is `ready`.")


class ImageStates(BaseModel):
    """Answer to ``POST /internal/images/states``: in the order of the query, without other organizers' images."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    images: list[ImageSummary]
