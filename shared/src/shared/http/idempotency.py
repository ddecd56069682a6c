"""Idempotency-Key: a creation that is sent twice happens once, and both senders get the same answer.

The key is a row that is written in the transaction that does the work, so there is no state in between: a crash
leaves neither key nor work. After draft-ietf-httpapi-idempotency-key-header-07. In a route::

    @router.post("/events", status_code=201, response_model=EventRead)
    async def create_event(
        body: EventCreate, principal: ..., session: SessionDep, idempotent: IdempotentDep
    ) -> Response:
        async def work() -> Response:
            event = await service.create_event(session, body)
            return created(f"/v1/events/{event.id}", EventRead.of(event))

        return await idempotent.create(principal, work)

Without the header ``work`` simply runs. Keys live for 24 hours and belong to one organizer, subject and path.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Header, Request, Response
from sqlalchemy import (
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shared.auth.verify import Principal
from shared.database.idempotency import IDEMPOTENCY_KEYS
from shared.http.dependencies import SessionDep
from shared.problems import Conflict, Invalid

LIFETIME = timedelta(hours=24)
MAX_KEY_LENGTH = 255
# An entry of a PostgreSQL index may have 2.7 KB; organizer and subject take up to 1.8 of them.
MAX_OPERATION_LENGTH = 300

_LOCK_NOT_AVAILABLE = "55P03"


class IdempotencyKeyInvalid(Invalid):
    code = "idempotency-key-invalid"
    title = "Invalid Idempotency-Key"

    def __init__(self) -> None:
        super().__init__(
            f"Send 1 to {MAX_KEY_LENGTH} printable ASCII characters, such as a UUID, with or without quotes.",
            field="header.Idempotency-Key",
        )


class IdempotencyKeyReused(Invalid):
    code = "idempotency-key-reused"
    title = "Idempotency-Key reused"

    def __init__(self) -> None:
        super().__init__(
            "This key came with another body or query before. Send a new key for a new request.",
            field="header.Idempotency-Key",
        )


class IdempotencyInProgress(Conflict):
    code = "idempotency-in-progress"
    title = "Request in progress"

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key has not finished yet. Send it again, with the same key, soon.",
            headers={"Retry-After": "2"},
        )


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """The request's key, if it has one, and the transaction."""

    request: Request
    session: AsyncSession
    key: str | None

    async def create(
        self, principal: Principal, work: Callable[[], Awaitable[Response]], *, fingerprint: bytes | None = None
    ) -> Response:
        """Answers with what ``work`` gives, or with what it gave when this key came first.

        ``work`` uses the same session without committing it, is awaited at most once, and may raise: then the key
        is forgotten with the rest of the transaction. Only 2xx answers are kept. A route that reads its body as a
        stream or a form passes a ``fingerprint`` of it.

        A request with the same key that is under way holds this one up until it ends, for as long as the session's
        ``lock_timeout``. Raises ``IdempotencyInProgress`` after that, ``IdempotencyKeyReused`` when the key came
        with another request, and ``IdempotencyKeyInvalid``.
        """
        if self.key is None:
            return await work()
        row = {
            "org": principal.organizer or "",
            "subject": principal.subject,
            "operation": _operation(self.request),
            "key": _read_key(self.key),
        }
        request_hash = _hash(self.request, await self.request.body() if fingerprint is None else fingerprint)
        if not await _take(self.session, row, request_hash):
            return await _stored(self.session, row, request_hash)

        answer = await work()
        this_row = [IDEMPOTENCY_KEYS.c[name] == value for name, value in row.items()]
        if 200 <= answer.status_code < 300:
            headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
            kept = {"status": answer.status_code, "body": bytes(answer.body), "headers": headers}
            await self.session.execute(update(IDEMPOTENCY_KEYS).where(*this_row).values(kept))
        else:
            await self.session.execute(delete(IDEMPOTENCY_KEYS).where(*this_row))
        return answer


async def _idempotent_request(
    request: Request,
    session: SessionDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Any new text, such as a UUID. The same request with the same key within 24 hours is done "
            "once and answered twice; the second answer has `Idempotent-Replayed: true`."
        ),
    ] = None,
) -> IdempotentRequest:
    return IdempotentRequest(request, session, idempotency_key)


IdempotentDep = Annotated[IdempotentRequest, Depends(_idempotent_request)]


async def _take(session: AsyncSession, row: dict[str, str], request_hash: bytes) -> bool:
    """Return whether the key is new or expired and now belongs to this transaction.

    Wait for another transaction that has the key, since the unique index blocks until that one ends.
    """
    new = {"request_hash": request_hash, "expires_at": func.clock_timestamp() + LIFETIME}
    statement = insert(IDEMPOTENCY_KEYS).values(**row, **new)
    statement = statement.on_conflict_do_update(
        index_elements=list(IDEMPOTENCY_KEYS.primary_key),
        set_={**new, "created_at": func.clock_timestamp(), "status": None, "body": None, "headers": None},
        where=IDEMPOTENCY_KEYS.c.expires_at <= func.clock_timestamp(),
    )
    try:
        taken = await session.execute(statement.returning(IDEMPOTENCY_KEYS.c.key))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise IdempotencyInProgress from error
        raise
    return taken.first() is not None


async def _stored(session: AsyncSession, row: dict[str, str], request_hash: bytes) -> Response:
    keys = IDEMPOTENCY_KEYS
    first = (
        await session.execute(
            select(keys.c.request_hash, keys.c.status, keys.c.body, keys.c.headers).where(
                *(keys.c[name] == value for name, value in row.items())
            )
        )
    ).one_or_none()
    if first is None or first.status is None:  # swept away, or its work has committed on its own and goes on
        raise IdempotencyInProgress
    if first.request_hash != request_hash:
        raise IdempotencyKeyReused
    return Response(first.body, first.status, {**first.headers, "Idempotent-Replayed": "true"})


def _operation(request: Request) -> str:
    path = quote(request.scope["path"])
    if len(path) > MAX_OPERATION_LENGTH - 10:
        path = hashlib.sha256(path.encode()).hexdigest()
    return f"{request.method} {path}"


def _hash(request: Request, content: bytes) -> bytes:
    return hashlib.sha256(b"\n".join((request.scope["query_string"], content))).digest()


def _read_key(header: str) -> str:
    """The key itself; a structured-field String (RFC 9651, 3.3.3) when it stands in quotes."""
    key = header.strip()
    if key.startswith('"'):
        if not re.fullmatch(r'"(?:[^"\\]|\\["\\])*"', key):
            raise IdempotencyKeyInvalid
        key = re.sub(r"\\(.)", r"\1", key[1:-1])
    if not re.fullmatch(rf"[\x20-\x7e]{{1,{MAX_KEY_LENGTH}}}", key):
        raise IdempotencyKeyInvalid
    return key
