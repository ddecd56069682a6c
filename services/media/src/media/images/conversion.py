"""Decode an uploaded image and write its JPEG variants; runs only in a child process of ``sandbox``."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, ImageChops, ImageCms, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError
from PIL import WebPImagePlugin as _  # noqa: F401 - registers the format, which `preinit` leaves out

from media.images.headers import (
    MAX_PIXELS,
    WAY_OUT,
    ImageHeader,
    ImageUnreadable,
    read_header,
    refuse_too_many_pixels,
)
from media.images.sizes import QUALITY, Variant
from shared.problems import Problem

# The fork server has imported this module, so its children find Pillow's plugins loaded.
Image.preinit()
_WHITE = (255, 255, 255)

# Above the largest published printing profiles.
_MAX_PROFILE_SIZE = 4 << 20

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class Converted:
    """A JPEG on disk; ``size`` in bytes, ``sha256`` in hexadecimal."""

    name: str
    path: Path
    width: int
    height: int
    size: int
    sha256: str


def convert(path: Path, out_dir: Path, variants: Sequence[Variant], quality: int = QUALITY) -> list[Converted]:
    """Decode the image once and write ``<out_dir>/<variant name>.jpg`` for each variant, in their order.

    Uses the first frame of an animation, applies the orientation, converts to sRGB on white and keeps nothing but
    pixels. Overwrites existing files, so it may run again. Raises what ``read_header`` raises, and
    ``ImageUnreadable`` when the image is damaged or of another format than its header says.
    """
    header = read_header(path)
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        try:
            pictures = _pictures(file, header, variants)
        except (Problem, MemoryError):
            raise
        except Exception as error:
            # Decoders raise nearly anything on damaged data: OSError, SyntaxError, ValueError, struct.error, ...
            reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
            raise ImageUnreadable(
                f"The {header.format} file is damaged or cut off and cannot be decoded{reason}. {WAY_OUT}"
            ) from error
    return [_save(picture, variant, out_dir, quality) for picture, variant in zip(pictures, variants, strict=True)]


def _pictures(file: IO[bytes], header: ImageHeader, variants: Sequence[Variant]) -> list[Image.Image]:
    image: Image.Image = Image.open(file, formats=(header.format,))
    # MPO is a JPEG with further pictures behind the first, from phones and 3D cameras.
    if image.format != header.format and (image.format, header.format) != ("MPO", "JPEG"):
        raise ImageUnreadable(f"The file starts like a {header.format} but is a {image.format}. {WAY_OUT}")
    refuse_too_many_pixels(*image.size)
    width, height = image.size

    # All variants come from one picture at least as large as any of them, so orientation and color profile are
    # applied to that instead of to the full pixels.
    widest, highest = max(variant.width for variant in variants), max(variant.height for variant in variants)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # Decode at 1/2, 1/4 or 1/8 of the size where that is still twice what is needed.
        side = max(widest, highest)
        wanted = _fitting((width, height), side, side)
        image.draft(None, (2 * wanted[0], 2 * wanted[1]))
    elif (
        isinstance(image, PngImagePlugin.PngImageFile)
        and image.tile[0].args == "RGB;16B"
        and (key := image.info.get("transparency"))
    ):
        image.info["transparency"] = tuple(part >> 8 for part in key)  # Pillow scales only the pixels
    image.load()
    orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    upright = (height, width) if orientation in _SIDEWAYS else (width, height)
    fitted = _fitting(upright, widest, highest)
    image = _without_alpha(image)
    image = _resized(image, fitted[::-1] if orientation in _SIDEWAYS else fitted)
    image = _to_srgb(image, profile)
    if orientation in _TRANSPOSES:
        image = image.transpose(_TRANSPOSES[orientation])
    return [_cleaned(image, _fitting(upright, variant.width, variant.height)) for variant in variants]


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _fitting(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, width / size[0], height / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):  # damaged EXIF loses the orientation, not the picture
        value = image.getexif().get(ExifTags.Base.Orientation)
        if isinstance(value, int):
            return value
    return 1


def _without_alpha(image: Image.Image) -> Image.Image:
    """Return the image on white in L, RGB or CMYK. Call before resizing: transparent pixels have hidden colors."""
    if image.mode.startswith("I"):
        return _scaled_to_8_bits(image, image.info.get("transparency"))
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image.paste((*_WHITE, 255), mask=ImageChops.invert(image.getchannel("A")))
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image, key: object) -> Image.Image:
    """Scale 16 bits of grey to 8; Pillow's own conversion clips, so values above 255 would be white."""
    grey = image.convert("I").point([round(value / 257) for value in range(1 << 16)], "L")
    if isinstance(key, int):
        grey.paste(255, mask=image.convert("I").point([255 * (value == key) for value in range(1 << 16)], "L"))
    return grey


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    # The color library had memory errors of its own (CVE-2024-28219, CVE-2026-59205), so it gets only profiles of
    # the image's own color space. A profile it cannot use is ignored.
    if isinstance(profile, bytes) and len(profile) <= _MAX_PROFILE_SIZE and image.mode in ("RGB", "CMYK"):
        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space.strip() == image.mode:
                converted = ImageCms.profileToProfile(
                    image, source, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), outputMode="RGB"
                )
                if converted is not None:
                    return converted
    return image.convert("RGB")


def _cleaned(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Copy the pixels into a new image: saving keeps comments, and converting keeps profile, EXIF and texts."""
    clean = Image.new("RGB", size)
    clean.paste(_resized(image, size))
    return clean


def _save(picture: Image.Image, variant: Variant, out_dir: Path, quality: int) -> Converted:
    # Progressive would save little more and take much longer to encode.
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
    content = data.getvalue()
    path = out_dir / f"{variant.name}.jpg"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Converted(variant.name, path, picture.width, picture.height, len(content), digest)
