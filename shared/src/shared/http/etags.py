"""ETags and conditional requests (RFC 9110, 13). A resource's tag is its version: strong, and no hash of a body."""

import re

from shared.problems import Problem

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_ONE_TAG = re.compile(_TAG)


class PreconditionFailed(Problem):
    """Carries the current tag in its ``ETag`` header."""

    status = 412
    code = "precondition-failed"
    title = "Precondition failed"

    def __init__(self, current: str) -> None:
        super().__init__(
            f"`If-Match` does not name the current version {current}. Read the resource and repeat the change.",
            headers={"ETag": current},
        )


def etag_of(version: int | str) -> str:
    """Return the strong tag of a version. Raises ``ValueError`` for text that a tag cannot hold."""
    tag = f'"{version}"'
    if not re.fullmatch(r'"[\x21\x23-\x7e]+"', tag):
        raise ValueError(f"{version!r} cannot be an ETag: use printable ASCII without quotes and blanks")
    return tag


def etag_headers(tag: str, *, is_private: bool = False) -> dict[str, str]:
    """Return headers that let a cache keep the response, and revalidate it by its ``ETag`` before each use.

    A private response is kept by the caller's own cache only. Any other varies by token, since organizers see more.
    """
    if is_private:
        return {"ETag": tag, "Cache-Control": "private, no-cache"}
    return {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Authorization"}


def check_if_match(if_match: str | None, current: str) -> None:
    """Raise ``PreconditionFailed`` unless the header is missing, ``*``, or names ``current``, an ``etag_of``.

    Weak tags never match, and neither does a malformed header: to refuse is safe.
    """
    if if_match is None or if_match.strip() == "*":
        return
    if current not in _tags(if_match):
        raise PreconditionFailed(current)


def is_not_modified(if_none_match: str | None, current: str) -> bool:
    """Return whether a GET may be answered with 304. Weak and strong tags compare alike."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or current in {tag.removeprefix("W/") for tag in _tags(if_none_match)}


def _tags(header: str) -> list[str]:
    return _ONE_TAG.findall(header) if _TAGS.fullmatch(header) else []
