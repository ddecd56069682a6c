import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy import BigInteger, NullPool, String, Uuid, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime

from shared.database.keyset import MAX_CURSOR_SIZE, InvalidCursor, Keyset, PageRequest
from shared.http.pagination import Page, PageDep, set_next_link
from shared.http.problems import add_problem_handlers
from shared.ids import new_id
from testkit.plugin import Databases


class Base(DeclarativeBase):
    pass


class Talk(Base):
    __tablename__ = "talk"
    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    title: Mapped[str] = mapped_column(String)
    place: Mapped[int] = mapped_column()
    seen: Mapped[int] = mapped_column(BigInteger)
    room: Mapped[str | None] = mapped_column(String)


START = datetime(2026, 10, 25, 0, 30, 0, 123457, tzinfo=UTC)
BY_START = Keyset(Talk.starts_at, Talk.id)
BY_TITLE = Keyset(Talk.title, Talk.id)
BY_PLACE = Keyset(Talk.place, Talk.seen, Talk.id)
ORDERS = {
    "start": BY_START,
    "newest": Keyset(Talk.starts_at, Talk.id, descending=True),
    "title": BY_TITLE,
    "place": BY_PLACE,
}


@pytest.fixture(scope="module")
async def talks(databases: Databases) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(await databases.empty("pages"), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        # Several talks share a start, a title and a place, so that only the id distinguishes them; starts differ by
        # single microseconds, which a cursor must not round.
        session.add_all(
            Talk(
                id=new_id(),
                starts_at=START + timedelta(microseconds=number // 3),
                title=["Größe", "größe", "', \\ \"", "日本"][number % 4],
                place=number % 2 - 1,
                seen=2**40 * (number % 3),
            )
            for number in range(23)
        )
        await session.flush()
        yield session
        await session.rollback()
    await engine.dispose()


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("limit", [1, 5, 22, 23, 24])
async def test_pages_show_every_row_once_and_in_order(talks: AsyncSession, name: str, limit: int) -> None:
    order = ORDERS[name]
    whole, _ = order.cut((await talks.scalars(order.apply(select(Talk), PageRequest(200)))).all(), PageRequest(200))
    assert len(whole) == 23

    seen: list[Talk] = []
    cursor: str | None = None
    for _ in range(24):
        page = PageRequest(limit, cursor)
        rows, cursor = order.cut((await talks.scalars(order.apply(select(Talk), page))).all(), page)
        assert len(rows) <= limit
        seen += rows
        if cursor is None:
            break
    assert [talk.id for talk in seen] == [talk.id for talk in whole]


async def test_rows_of_chosen_columns_page_as_objects_do(talks: AsyncSession) -> None:
    statement = select(Talk.starts_at, Talk.id, Talk.title)
    rows, cursor = BY_START.cut(
        (await talks.execute(BY_START.apply(statement, PageRequest(2)))).all(), PageRequest(2)
    )
    rest = (await talks.execute(BY_START.apply(statement, PageRequest(200, cursor)))).all()
    assert len(rows) + len(rest) == 23


async def test_the_index_of_the_order_can_be_used() -> None:
    page = PageRequest(5, BY_START.encode([START, new_id()]))
    assert "(talk.starts_at, talk.id) > (" in str(BY_START.apply(select(Talk), page))


def _cursor(content: object) -> str:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


BAD_VALUES: list[list[Any]] = [
    [],
    ["a"],
    ["a", "b", "c"],
    ["a\0", str(UUID(int=1))],
    ["\ud800", str(UUID(int=1))],
    [1, str(UUID(int=1))],
    [None, str(UUID(int=1))],
    ["a", "not-a-uuid"],
    ["a", 7],
    [["a"], str(UUID(int=1))],
]


@pytest.mark.parametrize("values", BAD_VALUES)
def test_a_cursor_with_values_of_another_kind_is_refused(values: list[Any]) -> None:
    with pytest.raises(InvalidCursor):
        BY_TITLE.apply(select(Talk), PageRequest(5, _cursor([1, BY_TITLE.order, *values])))


@pytest.mark.parametrize(
    "values", [[2**31, 0], [0, 2**63], [True, 0], [0.5, 0], ["1", 0], [10**400, 0], [0, -(2**63) - 1]]
)
def test_a_cursor_with_numbers_beyond_the_column_is_refused(values: list[Any]) -> None:
    with pytest.raises(InvalidCursor):
        BY_PLACE.apply(select(Talk), PageRequest(5, _cursor([1, BY_PLACE.order, *values, str(UUID(int=1))])))


@pytest.mark.parametrize("start", [10**18, -(10**18), 10**400, "2026-10-25T00:30:00Z", 1.5, True])
def test_a_cursor_with_a_time_beyond_the_calendar_is_refused(start: object) -> None:
    with pytest.raises(InvalidCursor):
        BY_START.apply(select(Talk), PageRequest(5, _cursor([1, BY_START.order, start, str(UUID(int=1))])))


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "ä",
        "a=b",
        "+/+/",
        _cursor(b"{}"),
        _cursor(b"7"),
        _cursor(b"[]"),
        _cursor(b"[" * 1400),
        _cursor(b"\xff"),
    ],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursor) as refused:
        BY_START.apply(select(Talk), PageRequest(5, cursor))
    assert (refused.value.status, refused.value.code) == (422, "invalid-cursor")
    assert refused.value.errors[0].field == "query.cursor"


def test_a_long_title_still_makes_a_cursor_that_is_taken() -> None:
    values = ["\U0001f600" * 700, new_id()]
    cursor = BY_TITLE.encode(values)
    assert len(cursor) < MAX_CURSOR_SIZE
    assert BY_TITLE.decode(cursor) == values


def test_a_cursor_of_another_order_or_version_is_refused() -> None:
    values = [START, new_id()]
    backwards = Keyset(Talk.starts_at, Talk.id, descending=True)
    with pytest.raises(InvalidCursor):
        BY_START.apply(select(Talk), PageRequest(5, backwards.encode(values)))
    with pytest.raises(InvalidCursor):
        BY_START.apply(select(Talk), PageRequest(5, _cursor([2, BY_START.order, 0, str(values[1])])))


def test_an_order_by_what_may_be_missing_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="nullable"):
        Keyset(Talk.room, Talk.id)
    with pytest.raises(ValueError, match="aware"):
        BY_START.encode([START.replace(tzinfo=None), new_id()])


@pytest.fixture
async def client(talks: AsyncSession) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    add_problem_handlers(app)

    @app.get("/v1/{place}/talks")
    async def list_talks(place: str, page: PageDep, request: Request, response: Response) -> Page[str]:
        rows, next_cursor = BY_START.cut((await talks.scalars(BY_START.apply(select(Talk), page))).all(), page)
        set_next_link(request, response, next_cursor)
        return Page(items=[str(talk.id) for talk in rows], next_cursor=next_cursor)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inside:8000") as client:
        yield client


async def test_the_next_link_keeps_the_query_and_leads_through_the_whole_list(client: httpx.AsyncClient) -> None:
    address, ids = "/v1/b%C3%BChne%3E%0A/talks?limit=10&tag=a%26b&tag=c", []
    for expected in (10, 10, 3):
        answer = await client.get(address)
        assert len(answer.json()["items"]) == expected
        ids += answer.json()["items"]
        if "Link" in answer.headers:
            address = answer.links["next"]["url"]
            assert address.startswith("/v1/b%C3%BChne%3E%0A/talks?limit=10&tag=a%26b&tag=c&cursor=")
            assert answer.json()["next_cursor"] in address
    assert len(set(ids)) == 23
    assert "Link" not in answer.headers
    assert answer.json()["next_cursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "cursor=abc", "cursor=" + "a" * 4001])
async def test_a_bad_page_request_is_a_422_that_names_the_parameter(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/x/talks?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "query." + query.split("=")[0]


async def test_fifty_rows_unless_asked(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()["paths"]["/v1/{place}/talks"]["get"]["parameters"]
    limit = next(parameter["schema"] for parameter in schema if parameter["name"] == "limit")
    assert (limit["default"], limit["minimum"], limit["maximum"]) == (50, 1, 200)
