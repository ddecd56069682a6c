"""ETags: how a caller changes only what it has seen, and reads again only what has changed (RFC 9110, 13.1).

The tag of a resource is its version, so it is strong and costs no hashing of bodies.
"""

import re

from shared.problems import Problem

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_ONE_TAG = re.compile(_TAG)


class PreconditionFailed(Problem):
    """Carries the present tag in its ``ETag`` header."""

    status = 412
    code = "precondition-failed"
    title = "It was changed by somebody else"

    def __init__(self, current: str) -> None:
        super().__init__(
            f"`If-Match` names another version; the present one is {current}. Read it again and repeat the change.",
            headers={"ETag": current},
        )


def etag_of(version: int | str) -> str:
    """The strong tag of a version. Raises ``ValueError`` for text that can't stand in a tag."""
    tag = f'"{version}"'
    if not re.fullmatch(r'"[\x21\x23-\x7e]+"', tag):
        raise ValueError(f"{version!r} can't be an ETag: printable ASCII without quotes and blanks is needed.")
    return tag


def etag_headers(tag: str, *, is_private: bool = False) -> dict[str, str]:
    """Headers that let a cache keep the response and make it ask for the ``ETag`` before each use.

    A private response is kept by the caller's own cache only. Any other varies by token, since organizers see more.
    """
    if is_private:
        return {"ETag": tag, "Cache-Control": "private, no-cache"}
    return {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Authorization"}


def check_if_match(if_match: str | None, current: str) -> None:
    """Raises ``PreconditionFailed`` when the caller has seen another version than ``current``, an ``etag_of``.

    No header and ``*`` pass: the resource exists, or there would be no ``current``. Weak tags never match here, and
    what is no list of tags matches nothing, since refusing is the safe reading.
    """
    if if_match is None or if_match.strip() == "*":
        return
    if current not in _tags(if_match):
        raise PreconditionFailed(current)


def is_not_modified(if_none_match: str | None, current: str) -> bool:
    """True when a 304 can be the answer to a GET. Weak and strong tags compare alike, as the RFC has it."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or current in {tag.removeprefix("W/") for tag in _tags(if_none_match)}


def _tags(header: str) -> list[str]:
    return _ONE_TAG.findall(header) if _TAGS.fullmatch(header) else []
