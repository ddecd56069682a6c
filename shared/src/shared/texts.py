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
    match value:
        case str():
            _check_text(value, path)
        case float() if not math.isfinite(value):
            raise ValueError(f"{_dotted(path)} is not a finite number")
        case list():
            for index, item in enumerate(value):
                storable_json(item, (*path, index))
        case dict():
            for key, item in value.items():
                _check_text(key, path)
                storable_json(item, (*path, key))
    return value


def _check_text(text: str, path: Path) -> None:
    try:
        storable(text)
    except ValueError as error:
        raise ValueError(f"{_dotted(path)} {error}") from None


def _dotted(path: Path) -> str:
    return ".".join(map(str, path)).encode("ascii", "replace").decode() or "the value"
