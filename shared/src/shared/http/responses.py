"""Responses that routes build themselves, because they choose the status or the headers."""

from collections.abc import Mapping

from fastapi import Response
from pydantic import BaseModel

from shared.http.etags import is_not_modified


def json_response(
    content: BaseModel | str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """``content`` is a model, or text that is JSON already."""
    body = content if isinstance(content, str) else content.model_dump_json()
    return Response(body, status, headers, media_type="application/json")


def created(
    location: str, content: BaseModel | str, *, status: int = 201, headers: Mapping[str, str] | None = None
) -> Response:
    """``status`` is 202 when a job does the work."""
    return json_response(content, status=status, headers={"Location": location, **(headers or {})})


def conditional_response(
    if_none_match: str | None, content: BaseModel | str, headers: Mapping[str, str]
) -> Response:
    """Answer 304 when the caller knows the ``ETag`` among ``headers``, else 200 with ``content``."""
    if is_not_modified(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return json_response(content, headers=headers)
