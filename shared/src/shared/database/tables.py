"""What the tables of all services have in common: names of constraints, and types of columns."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import DateTime, MetaData, SmallInteger, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import mapped_column

# Explicit names, so that a later migration can drop or rename any constraint.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# Python type → column type, for the ``type_annotation_map`` of each service's declarative base.
COLUMN_TYPES: dict[Any, Any] = {
    datetime: DateTime(timezone=True),
    dict[str, Any]: JSONB,
    str: Text,
    UUID: Uuid,
}

# Two of the four parts of a wall time, see ``shared.walltime``; the instant is a ``datetime``, the zone a ``str``.
Local = Annotated[datetime, mapped_column(DateTime(timezone=False))]
Fold = Annotated[int, mapped_column(SmallInteger)]


def new_metadata() -> MetaData:
    return MetaData(naming_convention=NAMING_CONVENTION)
