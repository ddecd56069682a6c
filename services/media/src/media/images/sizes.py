"""Which variants an image gets. Decoding children import this module too: standard library only.

The boxes are those of the Open Event Server's image size table, under the same three names for every kind: its
thumbnail, small and icon of speakers are large, thumbnail and icon here. It has no sizes for sponsors.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # contracts need pydantic, which would cost each child memory
    from shared.contracts.media import ImageKind

QUALITY = 80


@dataclass(frozen=True)
class Variant:
    """A box in pixels that the picture is scaled down to fit, keeping its aspect."""

    name: str
    width: int
    height: int


_SQUARES = (Variant("large", 1000, 1000), Variant("thumbnail", 300, 300), Variant("icon", 75, 75))

VARIANTS: dict["ImageKind", tuple[Variant, ...]] = {
    "event": (Variant("large", 1300, 500), Variant("thumbnail", 500, 200), Variant("icon", 75, 30)),
    "speaker": (Variant("large", 500, 500), Variant("thumbnail", 50, 50), Variant("icon", 35, 35)),
    "sponsor": _SQUARES,
    "other": _SQUARES,
}
