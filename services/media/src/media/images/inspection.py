"""What the api process decides about an upload at once, and the refusals of the whole conversion."""

from pathlib import Path
from typing import Final

from media.images.headers import Inspection, Refused, read_header
from shared.problems import Problem

FIELD = "file"


class ImageUnreadable(Problem):
    status = 422
    code = "not-an-image"
    title = "The file is not an image that can be read"


class ImageTooManyPixels(Problem):
    status = 422
    code = "image-too-large"
    title = "The image has too many pixels"


class ImageFormatRefused(Problem):
    status = 415
    code = "image-format-refused"
    title = "Images of this format are not taken"


class ImageTooCostly(Problem):
    """Decoding took more time or memory than an image may, or ended the decoder's process."""

    status = 422
    code = "image-too-costly"
    title = "The image can't be decoded within the limits"


REFUSALS: Final[dict[str, type[Problem]]] = {
    refusal.code: refusal for refusal in (ImageUnreadable, ImageTooManyPixels, ImageFormatRefused, ImageTooCostly)
}


def as_problem(refused: Refused) -> Problem:
    return REFUSALS[refused.code](refused.detail, field=FIELD)


def inspect(path: Path) -> Inspection:
    """Format and size by the header alone: no pixel is decoded and Pillow is not used (``headers`` says why).

    Reads some kilobytes, but from a file: call it through ``asyncio.to_thread``. Raises ``ImageUnreadable``,
    ``ImageFormatRefused`` or ``ImageTooManyPixels``. Damage further on is found by the conversion.
    """
    try:
        return read_header(path)
    except Refused as refused:
        raise as_problem(refused) from None
