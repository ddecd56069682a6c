"""Time zone names of archives."""

from shared.walltime import zone_spelled_like

_ALIASES = {"hawaii-aleutian": "Pacific/Honolulu"}
"""Names that Open Event wrote and that are not in the tz database."""


def repaired_zone(name: str) -> str | None:
    """Return the zone that an archive most likely means, or ``None`` if it is unknown."""
    return zone_spelled_like(name) or _ALIASES.get(name.strip().lower())
