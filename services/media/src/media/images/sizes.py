"""Which variants an image gets. Imported by the decoding children too: standard library only.

The boxes are those of the Open Event Server's image size table. It names a speaker's pictures thumbnail, small and
icon (500, 50 and 35 pixels square) and an event's large, thumbnail and icon; here every kind has the same three
names, so the speaker's become large 500, thumbnail 50, icon 35. It has no sizes for sponsors.
"""

from dataclasses import dataclass
from typing import Literal

ImageKind = Literal["event", "speaker", "sponsor", "other"]

# Part of the variants' keys and of a job's idempotency: raise it whenever the same original would give other bytes
# (sizes, quality, the way of converting), and old variants are made anew instead of being taken for current.
RECIPE = 1

QUALITY = 80


@dataclass(frozen=True)
class Variant:
    """A box in pixels that the picture must fit into: its aspect is kept and it is never enlarged."""

    name: str
    width: int
    height: int


_SQUARES = (Variant("large", 1000, 1000), Variant("thumbnail", 300, 300), Variant("icon", 75, 75))

VARIANTS: dict[ImageKind, tuple[Variant, ...]] = {
    "event": (Variant("large", 1300, 500), Variant("thumbnail", 500, 200), Variant("icon", 75, 30)),
    "speaker": (Variant("large", 500, 500), Variant("thumbnail", 50, 50), Variant("icon", 35, 35)),
    "sponsor": _SQUARES,
    "other": _SQUARES,
}
