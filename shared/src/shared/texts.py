"""Validation of text from outside: refuse what PostgreSQL and UTF-8 cannot store."""

import math
from typing import TypeAlias

from pydantic import AfterValidator, JsonValue

_NUL = "\0"


def storable(text: str) -> str:
    """Return the text. Raise ``ValueError`` for NUL and lone surrogates, which JSON can contain."""
    if _NUL in text:
        raise ValueError("has a NUL character (\\u0000), which cannot be stored; leave it out")
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
    """Return the value. Raise ``ValueError`` with the path of a text or number that cannot be stored."""
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
