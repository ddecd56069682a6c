"""Text from outside that can be stored and sent: what PostgreSQL and UTF-8 refuse is refused at the door."""

import math
from typing import TypeAlias

from pydantic import AfterValidator, JsonValue

_NUL = "\0"


def storable(text: str) -> str:
    """The text itself. Raises ``ValueError`` for NUL and for halves of surrogate pairs, which JSON can spell."""
    if _NUL in text:
        raise ValueError("has a NUL character (\\u0000), which can't be stored; leave it out")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("has half of a surrogate pair (\\ud800 to \\udfff); leave it out") from None
    return text


Storable = AfterValidator(storable)
"""For ``Annotated[str, Storable]`` in the models of requests."""

Path: TypeAlias = tuple[str | int, ...]


def storable_json(value: JsonValue, path: Path = ()) -> JsonValue:
    """The value itself. Raises ``ValueError`` that names the place of a text or number that can't be stored."""
    try:
        match value:
            case str():
                storable(value)
            case float() if not math.isfinite(value):
                raise ValueError("is not a finite number")
            case list():
                for index, item in enumerate(value):
                    storable_json(item, (*path, index))
            case dict():
                for key, item in value.items():
                    storable(key)
                    storable_json(item, (*path, key))
    except _Placed:
        raise
    except ValueError as error:
        raise _Placed(
            f"{'.'.join(map(str, path)) or 'the value'} {error}".encode("ascii", "replace").decode()
        ) from None
    return value


class _Placed(ValueError):
    pass
