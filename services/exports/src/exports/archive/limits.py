"""Limits of archives, as one value that a test can scale down."""

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes are bytes of unpacked data unless said otherwise."""

    entries: int = 10_000
    directory_size: int = 8 * MEBIBYTE  # the zip's own list of its entries
    name_size: int = 255
    total_size: int = 500 * MEBIBYTE
    json_size: int = 50 * MEBIBYTE  # one JSON member
    json_total_size: int = 64 * MEBIBYTE
    json_values: int = 1_000_000  # in all JSON members: "[]," is 3 bytes of text and 64 of memory
    records: int = 20_000  # of one kind
    json_depth: int = 50
    image_size: int = 20 * MEBIBYTE
    ratio: int = 100  # unpacked to packed, of one member
    ratio_free_size: int = 1 * MEBIBYTE  # the ratio is not checked below this size
    extra_members: int = 20
    extra_members_size: int = 1 * MEBIBYTE  # in total
    report_lines: int = 2_000


LIMITS = Limits()
