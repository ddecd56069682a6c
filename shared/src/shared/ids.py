"""Ids are UUIDv7, so that new rows are adjacent in an index and sort by their time of creation."""

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    """Return a UUIDv7, unique across processes without coordination."""
    return uuid7()
