"""Keyset pagination: page 1000 costs what page 1 costs, and no row is returned twice.

BY_START = Keyset(Event.starts_at, Event.id)
rows = (await session.scalars(BY_START.apply(select(Event), page))).all()
rows, next_cursor = BY_START.cut(rows, page)
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Select, SmallInteger, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from shared.problems import Problem

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
MAX_CURSOR_SIZE = 4000  # fits a sort key of 700 characters of any script, below the usual limits of URLs

_VERSION = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Row = TypeVar("Row")
Statement = TypeVar("Statement", bound="Select[*tuple[Any, ...]]")
Value = str | int | UUID | datetime


class InvalidCursor(Problem):
    status = 422
    code = "invalid-cursor"
    title = "Invalid cursor"

    def __init__(self) -> None:
        super().__init__(
            "The cursor does not belong to this list in this sequence. Start again without `cursor`.",
            field="query.cursor",
        )


@dataclass(frozen=True, slots=True)
class PageRequest:
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None


class Keyset:
    """The sort key of a list: columns of which the last is unique, all ascending or all descending.

    Rows must have the columns as attributes of the same names. Raises ``ValueError`` for a nullable column: a row
    without a value is neither before nor after a cursor, so no page would hold it.
    """

    def __init__(self, *columns: InstrumentedAttribute[Any] | ColumnElement[Any], descending: bool = False) -> None:
        if not columns or any(getattr(column, "nullable", False) for column in columns):
            raise ValueError("A keyset must have columns, none of them nullable.")
        self._columns = columns
        self._descending = descending
        order = ",".join(str(column.key) for column in columns) + ("-" if descending else "+")
        self.order = zlib.crc32(order.encode())

    def apply(self, statement: Statement, page: PageRequest) -> Statement:
        """Sort the statement, start it after the cursor, and limit it to one row more than the page, for ``cut``.

        Raises ``InvalidCursor``.
        """
        if page.cursor is not None:
            values = self.decode(page.cursor)
            at = tuple_(*(literal(value, column.type) for value, column in zip(values, self._columns, strict=True)))
            here = tuple_(*self._columns)
            statement = statement.where(here < at if self._descending else here > at)
        order = (column.desc() if self._descending else column.asc() for column in self._columns)
        return statement.order_by(*order).limit(page.limit + 1)

    def cut(self, rows: Sequence[Row], page: PageRequest) -> tuple[Sequence[Row], str | None]:
        """Return the page's rows without the extra one, and the cursor of the next page, if any."""
        if len(rows) <= page.limit:
            return rows, None
        last = rows[page.limit - 1]
        return rows[: page.limit], self.encode([getattr(last, str(column.key)) for column in self._columns])

    def encode(self, values: Sequence[Any]) -> str:
        """Return the cursor after the row with these values. Raises ``ValueError``."""
        content = json.dumps(
            [_VERSION, self.order, *map(_packed, values)], separators=(",", ":"), ensure_ascii=False
        )
        return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()

    def decode(self, cursor: str) -> list[Value]:
        """Return the values of a cursor. Raises ``InvalidCursor``."""
        try:
            padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
            version, order, *packed = json.loads(base64.b64decode(padded, b"-_", validate=True))
            if (version, order) != (_VERSION, self.order):
                raise ValueError("another version, list or sort key")
            return [_unpacked(value, column) for value, column in zip(packed, self._columns, strict=True)]
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidCursor from error


def _packed(value: object) -> str | int:
    match value:
        case datetime() if value.tzinfo is not None:
            return (value - _EPOCH) // _MICROSECOND
        case UUID():
            return str(value)
        case str() | int() if not isinstance(value, bool):
            return value
    raise ValueError(f"A cursor cannot hold {value!r}: it must be text, an integer, a UUID or an aware datetime.")


def _unpacked(value: object, column: InstrumentedAttribute[Any] | ColumnElement[Any]) -> Value:
    """Raise ``ValueError`` for a value that the column cannot have, because callers may forge cursors."""
    kind = column.type.python_type
    if kind is UUID and isinstance(value, str):
        return UUID(value)
    if kind is datetime and type(value) is int:
        return _EPOCH + value * _MICROSECOND
    if kind is int and type(value) is int:
        bits = 63 if isinstance(column.type, BigInteger) else 15 if isinstance(column.type, SmallInteger) else 31
        if -(1 << bits) <= value < 1 << bits:
            return value
    if kind is str and isinstance(value, str) and "\0" not in value:
        value.encode()  # lone surrogates raise
        return value
    raise ValueError("not a value of this column")
