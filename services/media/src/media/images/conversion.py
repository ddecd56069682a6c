"""Decodes an uploaded image and writes its JPEG variants. Runs only in a child process of ``sandbox``.

Imports nothing of ``shared``: see ``headers``.
"""

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

from media.images.headers import MAX_PIXELS, TAKEN, Inspection, Refused, read_header, refuse_too_many_pixels
from media.images.sizes import QUALITY, Variant

# The fork server has imported this module, so its children find Pillow's plugins loaded.
Image.preinit()
_WHITE = (255, 255, 255)

# The largest published printing profiles have some 2.5 MB.
_MAX_PROFILE_SIZE = 4 << 20

_TURNS = {
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
    """One JPEG on disk; ``size`` in bytes, ``sha256`` in hexadecimal."""

    name: str
    path: Path
    width: int
    height: int
    size: int
    sha256: str


def convert(path: Path, out_dir: Path, variants: Sequence[Variant], quality: int = QUALITY) -> list[Converted]:
    """Writes ``<out_dir>/<variant name>.jpg`` for each variant, in their order, from one decoding of the image.

    Of an animation the first frame is taken. Orientation is applied, colours become sRGB, transparency becomes
    white; nothing but pixels survives. Existing files are overwritten, so it may be run again. Raises ``Refused``
    when the image is damaged, of another format, or has too many pixels.
    """
    header = read_header(path)
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        try:
            pictures = _pictures(file, header, variants)
        except (Refused, MemoryError):
            raise
        except Exception as error:
            # Decoders raise nearly anything on damaged data: OSError, SyntaxError, ValueError, struct.error, ...
            reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
            detail = f"The {header.format} file is damaged or cut off and can't be decoded{reason}. {TAKEN}"
            raise Refused("not-an-image", detail) from error
    return [_save(picture, variant, out_dir, quality) for picture, variant in zip(pictures, variants, strict=True)]


def _pictures(file: IO[bytes], header: Inspection, variants: Sequence[Variant]) -> list[Image.Image]:
    image: Image.Image = Image.open(file, formats=(header.format,))
    # MPO is what phones and 3D cameras call a JPEG with further pictures behind the first.
    if image.format != header.format and (image.format, header.format) != ("MPO", "JPEG"):
        raise Refused("not-an-image", f"The file starts like a {header.format} but is a {image.format}. {TAKEN}")
    refuse_too_many_pixels(*image.size)
    width, height = image.size

    # All variants come from one picture that is no smaller than any of them; only that one is made from the full
    # pixels, and orientation and colour profile, which need no more, are applied to it instead of to the original.
    widest, highest = max(variant.width for variant in variants), max(variant.height for variant in variants)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # Decodes at 1/2, 1/4 or 1/8 of the size where that is still twice what is wanted.
        side = max(widest, highest)
        wanted = _fitting((width, height), side, side)
        image.draft(None, (2 * wanted[0], 2 * wanted[1]))
    elif (
        isinstance(image, PngImagePlugin.PngImageFile)
        and image.tile[0].args == "RGB;16B"
        and (key := image.info.get("transparency"))
    ):
        image.info["transparency"] = tuple(part >> 8 for part in key)  # Pillow does so to the pixels only
    image.load()
    orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    upright = (height, width) if orientation in _SIDEWAYS else (width, height)
    fitted = _fitting(upright, widest, highest)
    image = _without_alpha(image)
    image = _resized(image, fitted[::-1] if orientation in _SIDEWAYS else fitted)
    image = _to_srgb(image, profile)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    return [_cleaned(image, _fitting(upright, variant.width, variant.height)) for variant in variants]


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _fitting(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, width / size[0], height / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):  # damaged EXIF costs the orientation, not the picture
        value = image.getexif().get(ExifTags.Base.Orientation)
        if isinstance(value, int):
            return value
    return 1


def _without_alpha(image: Image.Image) -> Image.Image:
    """The image on white in L, RGB or CMYK. Before any resizing: transparent pixels hold colours nobody saw."""
    if image.mode.startswith("I"):
        return _scaled_to_8_bits(image, image.info.get("transparency"))
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image.paste((*_WHITE, 255), mask=ImageChops.invert(image.getchannel("A")))
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image, key: object) -> Image.Image:
    """Grey of 16 bits, scaled: Pillow's own conversion clips, and anything above 255 would be white."""
    grey = image.convert("I").point([round(value / 257) for value in range(1 << 16)], "L")
    if isinstance(key, int):
        grey.paste(255, mask=image.convert("I").point([255 * (value == key) for value in range(1 << 16)], "L"))
    return grey


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    # The colour library has had its own memory errors (CVE-2024-28219, CVE-2026-59205): it gets profiles of the
    # image's own colour space only, and a profile it can't use is left out. CMYK without one is converted plainly.
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
    """A new image of the pixels alone: saving keeps a comment, and converting keeps profile, EXIF and texts."""
    clean = Image.new("RGB", size)
    clean.paste(_resized(image, size))
    return clean


def _save(picture: Image.Image, variant: Variant, out_dir: Path, quality: int) -> Converted:
    # On 319 pictures of two real events `optimize` saves 5 % of the bytes; progressive saves 1.4 % more and makes
    # encoding take 2.8 times as long.
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
    content = data.getvalue()
    path = out_dir / f"{variant.name}.jpg"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Converted(variant.name, path, picture.width, picture.height, len(content), digest)
