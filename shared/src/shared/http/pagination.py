from typing import Annotated, Generic, TypeVar
from urllib.parse import quote

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from shared.database.keyset import DEFAULT_LIMIT, MAX_CURSOR_SIZE, MAX_LIMIT, PageRequest

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None = Field(
        default=None, description="The `cursor` of the next page; null on the last page. Also in the header `Link`."
    )


async def _page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="The largest number of items.")] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_SIZE, description="`next_cursor` of the previous page.")
    ] = None,
) -> PageRequest:
    return PageRequest(limit, cursor)


PageDep = Annotated[PageRequest, Depends(_page_request)]


def set_next_link(request: Request, response: Response, next_cursor: str | None) -> None:
    """Set ``Link: <…>; rel="next"``, a relative reference, since only the gateway knows the public host."""
    if next_cursor is not None:
        query = request.url.include_query_params(cursor=next_cursor).query
        response.headers["Link"] = f'<{quote(request.scope["path"])}?{query}>; rel="next"'
