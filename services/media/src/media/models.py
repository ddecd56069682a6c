"""Tables of the service. The schema is the role's search path, so names stand without it."""

from sqlalchemy.orm import DeclarativeBase

from shared.database import COLUMN_TYPES, new_metadata
from shared.messaging.outbox import messaging_tables


class Base(DeclarativeBase):
    metadata = new_metadata()
    type_annotation_map = COLUMN_TYPES


messaging_tables(Base.metadata)
