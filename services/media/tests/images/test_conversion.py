import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from media.images.conversion import Converted, convert
from media.images.headers import ImageUnreadable
from media.images.sizes import VARIANTS, Variant
from services.media.tests.factories import png_of

AS_IS = (Variant("large", 4000, 4000),)
RED, WHITE = (255, 0, 0), (255, 255, 255)

Convert = Callable[..., list[Converted]]


@pytest.fixture(name="converted")
def _converted(tmp_path: Path) -> Convert:
    """Converts an image or the bytes of a file."""

    def run(
        source: Image.Image | bytes, variants: tuple[Variant, ...] = AS_IS, fmt: str = "PNG", **save: object
    ) -> list[Converted]:
        if isinstance(source, Image.Image):
            content = io.BytesIO()
            source.save(content, fmt, **save)
            source = content.getvalue()
        path = tmp_path / "original"
        path.write_bytes(source)
        return convert(path, tmp_path, variants)

    return run


def pixels(converted: Converted) -> Image.Image:
    with Image.open(converted.path) as image:
        image.load()
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (converted.width, converted.height))
    return image


def pixel(converted: list[Converted], x: int = 5, y: int = 5) -> tuple[int, ...]:
    value = pixels(converted[0]).getpixel((x, y))
    assert isinstance(value, tuple)
    return tuple(int(part) for part in value)


def near(actual: tuple[int, ...], expected: tuple[int, int, int], within: int = 6) -> bool:
    return all(abs(a - e) <= within for a, e in zip(actual, expected, strict=True))


def png(width: int, height: int, depth: int, color_type: int, row: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    return png_of(
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)),
        *extra,
        (b"IDAT", zlib.compress((b"\0" + row) * height)),
        (b"IEND", b""),
    )


def test_every_kind_gets_three_jpegs_that_fit_their_boxes_and_keep_the_aspect(converted: Convert) -> None:
    image = Image.effect_noise((2600, 1300), 60).convert("RGB")

    for variants in VARIANTS.values():
        files = converted(image, variants, fmt="JPEG")

        assert [file.name for file in files] == ["large", "thumbnail", "icon"]
        for file, variant in zip(files, variants, strict=True):
            assert file.width <= variant.width
            assert file.height <= variant.height
            assert variant.width in (file.width, 2 * file.height) or file.height == variant.height
            assert abs(file.width - 2 * file.height) <= 1
            content = file.path.read_bytes()
            assert file.size == len(content)
            assert file.sha256 == hashlib.sha256(content).hexdigest()
            assert pixels(file).size == (file.width, file.height)


def test_a_small_image_is_never_enlarged(converted: Convert) -> None:
    files = converted(Image.new("RGB", (60, 20), RED), VARIANTS["event"])

    assert [(file.width, file.height) for file in files] == [(60, 20), (60, 20), (60, 20)]


def test_variants_whose_boxes_do_not_nest_are_each_as_large_as_allowed(converted: Convert) -> None:
    files = converted(Image.new("RGB", (800, 400), RED), (Variant("wide", 600, 30), Variant("tall", 40, 600)))

    assert [(file.width, file.height) for file in files] == [(60, 30), (40, 20)]


@pytest.mark.parametrize("size", [(1, 1), (12_000, 1), (1, 12_000), (12_000, 3_333)])
def test_extreme_sizes_within_the_limits_convert(converted: Convert, size: tuple[int, int]) -> None:
    files = converted(Image.new("L", size, 128), VARIANTS["other"], compress_level=1)

    assert all(file.width >= 1 and file.height >= 1 for file in files)
    assert near(pixel(files, 0, 0), (128, 128, 128))


def test_converting_again_gives_the_same_bytes(converted: Convert) -> None:
    image = Image.effect_noise((300, 300), 60)

    assert converted(image, VARIANTS["event"]) == converted(image, VARIANTS["event"])


def test_a_transparent_pixel_becomes_white_and_never_shows_its_hidden_color(converted: Convert) -> None:
    assert near(pixel(converted(Image.new("RGBA", (20, 20), (255, 0, 0, 0)))), WHITE)
    assert near(pixel(converted(Image.new("LA", (20, 20), (0, 0)))), WHITE)
    assert near(pixel(converted(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), fmt="WEBP", lossless=True))[:3], WHITE)


def test_half_transparent_pixels_are_mixed_with_white(converted: Convert) -> None:
    assert near(pixel(converted(Image.new("RGBA", (20, 20), (255, 0, 0, 128)))), (255, 127, 127))
    assert near(pixel(converted(Image.new("LA", (20, 20), (0, 128)))), (127, 127, 127))


def test_an_alpha_gradient_becomes_a_gradient_to_white(converted: Convert) -> None:
    image = Image.new("RGBA", (256, 256), (255, 0, 0, 0))
    image.putalpha(Image.linear_gradient("L"))  # nothing at the top, opaque at the bottom
    files = converted(image)

    for y in (0, 64, 128, 192, 255):
        assert near(pixel(files, 100, y), (255, 255 - y, 255 - y), 8)


def test_hidden_colors_do_not_bleed_into_the_edges_when_resized(converted: Convert) -> None:
    image = Image.new("RGBA", (400, 400), (0, 0, 0, 0))  # transparent black
    image.paste((255, 255, 0, 255), (200, 0, 400, 400))
    small = pixels(converted(image, (Variant("icon", 50, 50),))[0])

    assert min(small.getpixel((x, 25))[0] for x in range(50)) > 235  # type: ignore[index]


def test_palette_transparency_becomes_white(converted: Convert) -> None:
    palette = (b"PLTE", bytes([*RED, 0, 255, 0]))
    file = png(16, 16, 8, 3, bytes([0] * 8 + [1] * 8), palette, (b"tRNS", bytes([0, 255])))

    assert near(pixel(converted(file), 2), WHITE)
    assert near(pixel(converted(file), 13), (0, 255, 0), 12)


@pytest.mark.parametrize("depth", [1, 8, 16])
def test_a_transparent_grey_becomes_white(converted: Convert, depth: int) -> None:
    row = {1: b"\0\0", 8: bytes(16), 16: bytes(32)}[depth]

    assert near(pixel(converted(png(16, 16, depth, 0, row, (b"tRNS", b"\0\0")))), WHITE)
    assert near(pixel(converted(png(16, 16, depth, 0, row))), (0, 0, 0))


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_color_becomes_white(converted: Convert, depth: int) -> None:
    color = struct.pack(">3H", 0x80FF, 0x10FF, 0xFF) if depth == 16 else bytes([0x80, 0x10, 0x00])
    key = color if depth == 16 else struct.pack(">3H", 0x80, 0x10, 0)

    assert near(pixel(converted(png(16, 16, depth, 2, color * 16, (b"tRNS", key)))), WHITE)
    assert near(pixel(converted(png(16, 16, depth, 2, color * 16))), (0x80, 0x10, 0), 10)


def test_grey_of_16_bits_is_scaled_and_not_clipped(converted: Convert) -> None:
    for value, expected in ((0, 0), (300, 1), (40_000, 156), (65_535, 255)):
        grey = pixel(converted(Image.new("I;16", (20, 20), value)))
        assert near(grey, (expected, expected, expected), 2)


def test_16_bits_a_channel_with_alpha_are_flattened(converted: Convert) -> None:
    half = struct.pack(">4H", 65_535, 0, 0, 32_768) * 16

    assert near(pixel(converted(png(16, 16, 16, 6, half))), (255, 127, 127))


def test_a_bilevel_image_converts(converted: Convert) -> None:
    assert near(pixel(converted(Image.new("1", (20, 20), 1))), WHITE)


def test_cmyk_without_a_profile_keeps_its_colors(converted: Convert) -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))

    assert near(pixel(converted(image, fmt="JPEG", quality=95)), RED, 12)


def marked() -> Image.Image:
    """Wider than high, red in its upper left quarter."""
    image = Image.new("RGB", (80, 40), (0, 0, 255))
    image.paste(RED, (0, 0, 40, 20))
    return image


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(converted: Convert, fmt: str, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = marked() if undo is None else marked().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation

    files = converted(stored, (Variant("large", 4000, 4000), Variant("icon", 40, 40)), fmt, exif=exif)

    assert [(file.width, file.height) for file in files] == [(80, 40), (40, 20)]
    assert near(pixel(files, 10, 8), RED, 12)
    assert near(pixel(files, 70, 32), (0, 0, 255), 12)


def test_nothing_but_pixels_survives(converted: Convert) -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 0.0)})
    xmp = b"<x:xmpmeta>SECRET</x:xmpmeta>"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    texts = PngInfo()
    texts.add_text("Comment", "SECRET")
    texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
    image = Image.effect_noise((64, 64), 50).convert("RGB")

    for files in (
        converted(image, fmt="JPEG", exif=exif, xmp=xmp, comment=b"SECRET", icc_profile=profile),
        converted(image, fmt="PNG", exif=exif, pnginfo=texts, icc_profile=profile),
        converted(image, fmt="WEBP", exif=exif, xmp=xmp, icc_profile=profile),
        converted(image, fmt="GIF", comment=b"SECRET"),
    ):
        assert b"SECRET" not in files[0].path.read_bytes()
        assert set(pixels(files[0]).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_colors_of_a_profile_become_srgb(converted: Convert) -> None:
    plain = Image.new("RGB", (32, 32), (200, 100, 50))
    swapped = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # A profile that swaps red and blue: exchange the tags' names in its table.
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"

    assert near(pixel(converted(plain, icc_profile=bytes(swapped))), (50, 100, 200), 12)


@pytest.mark.parametrize("profile", [b"garbage", b"", b"\0" * 200])
def test_a_garbage_profile_is_ignored(converted: Convert, profile: bytes) -> None:
    assert near(pixel(converted(Image.new("RGB", (32, 32), RED), icc_profile=profile)), RED, 12)


def test_a_profile_of_another_color_space_is_ignored(converted: Convert) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()

    assert near(pixel(converted(Image.new("RGB", (32, 32), RED), icc_profile=lab)), RED, 12)


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_converted(converted: Convert, fmt: str) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in (RED, (0, 255, 0), (0, 0, 255))]
    lossless = {"lossless": True} if fmt == "WEBP" else {}

    files = converted(frames[0], fmt=fmt, save_all=True, append_images=frames[1:], **lossless)

    assert near(pixel(files), RED, 12)


def test_the_first_picture_of_a_multi_picture_jpeg_is_converted(converted: Convert) -> None:
    second = Image.new("RGB", (64, 64), (0, 255, 0))

    assert near(
        pixel(converted(Image.new("RGB", (64, 64), RED), fmt="MPO", save_all=True, append_images=[second])), RED, 12
    )


def test_a_transparent_gif_becomes_white(converted: Convert) -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([*RED, 0, 0, 255])

    assert near(pixel(converted(image, fmt="GIF", transparency=0)), WHITE)


def test_data_behind_a_jpeg_is_dropped(converted: Convert) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("page.html", "<script>SECRET</script>")
    image = io.BytesIO()
    Image.new("RGB", (32, 32), RED).save(image, "JPEG")

    files = converted(image.getvalue() + archive.getvalue())

    assert near(pixel(files), RED, 12)
    assert b"SECRET" not in files[0].path.read_bytes()
    assert not zipfile.is_zipfile(files[0].path)


def test_damaged_exif_loses_the_orientation_and_not_the_picture(converted: Convert) -> None:
    assert near(
        pixel(converted(Image.new("RGB", (32, 32), RED), fmt="JPEG", exif=b"Exif\0\0MM\0*\xff\xff")), RED, 12
    )


def test_a_large_jpeg_decoded_at_reduced_size_keeps_its_aspect(converted: Convert) -> None:
    files = converted(Image.new("RGB", (4001, 2999), RED), VARIANTS["event"], fmt="JPEG")

    assert [(file.width, file.height) for file in files] == [(667, 500), (267, 200), (40, 30)]


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_truncated_file_is_refused_and_leaves_no_variant(converted: Convert, tmp_path: Path, fmt: str) -> None:
    content = io.BytesIO()
    Image.effect_noise((200, 200), 80).convert("RGB").save(content, fmt)
    whole = content.getvalue()

    for length in (len(whole) // 2, len(whole) * 9 // 10):
        with pytest.raises(ImageUnreadable) as refused:
            converted(whole[:length])
        assert fmt in refused.value.detail
        assert str(tmp_path) not in refused.value.detail
    assert not list(tmp_path.glob("*.jpg"))
