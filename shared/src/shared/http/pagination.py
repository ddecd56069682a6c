from typing import Annotated, Generic, TypeVar
from urllib.parse import quote

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from shared.database.keyset import DEFAULT_LIMIT, MAX_CURSOR_SIZE, MAX_LIMIT, PageRequest

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None = Field(
        default=None, description="Ask for the next page with `?cursor=`; null on the last page. Also in `Link`."
    )


def _page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many items at most.")] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_SIZE, description="`next_cursor` of the page before this one.")
    ] = None,
) -> PageRequest:
    return PageRequest(limit, cursor)


PageDep = Annotated[PageRequest, Depends(_page_request)]


def set_next_link(request: Request, response: Response, next_cursor: str | None) -> None:
    """``Link: <…>; rel="next"`` as a relative reference, because only the gateway knows the public host."""
    if next_cursor is not None:
        query = request.url.include_query_params(cursor=next_cursor).query
        response.headers["Link"] = f'<{quote(request.scope["path"])}?{query}>; rel="next"'
