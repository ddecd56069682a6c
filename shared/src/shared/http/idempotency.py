"""Idempotency-Key: a creation that is sent twice happens once, and both requests get the same response.

The key is a row, written in the transaction that does the work, so a crash leaves neither. It lives for 24 hours
and belongs to one organizer, subject and path. After draft-ietf-httpapi-idempotency-key-header-07.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Header, Request, Response
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shared.auth.verify import Principal
from shared.database.idempotency import IDEMPOTENCY_KEYS
from shared.http.dependencies import SessionDep
from shared.problems import Conflict, Invalid

LIFETIME = timedelta(hours=24)
MAX_KEY_LENGTH = 255
# PostgreSQL limits an index entry to 2.7 kB, of which organizer and subject take up to 1.8.
MAX_OPERATION_LENGTH = 300

_LOCK_NOT_AVAILABLE = "55P03"


class IdempotencyKeyInvalid(Invalid):
    code = "idempotency-key-invalid"
    title = "Invalid Idempotency-Key"

    def __init__(self) -> None:
        super().__init__(
            f"The key must be 1 to {MAX_KEY_LENGTH} printable ASCII characters, quoted or not. Send a UUID.",
            field="header.Idempotency-Key",
        )


class IdempotencyKeyReused(Invalid):
    code = "idempotency-key-reused"
    title = "Idempotency-Key reused"

    def __init__(self) -> None:
        super().__init__(
            "This key was sent with another body or query before. Send a new key with a new request.",
            field="header.Idempotency-Key",
        )


class IdempotencyInProgress(Conflict):
    code = "idempotency-in-progress"
    title = "Request in progress"

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key is still in progress. Repeat yours with the same key.",
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
        """Return the response of ``work``, or the stored response of an earlier request with the same key.

        ``work`` must return a 2xx response, use the same session and not commit it; if it raises, the key is rolled
        back too. A route that reads its body as a stream or form must pass a ``fingerprint`` of it. Without a key,
        ``work`` simply runs.

        Waits while another request with the key is in progress, and raises ``IdempotencyInProgress`` after the
        session's ``lock_timeout``. Raises ``IdempotencyKeyReused`` when the key came with another request, and
        ``IdempotencyKeyInvalid``.
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
        if not await _claim(self.session, row, request_hash):
            return await _replay(self.session, row, request_hash)
        response = await work()
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        stored = {"status": response.status_code, "body": bytes(response.body), "headers": headers}
        await self.session.execute(update(IDEMPOTENCY_KEYS).filter_by(**row).values(stored))
        return response


async def _idempotent_request(
    request: Request,
    session: SessionDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="A new text, such as a UUID. A repetition with the same key within 24 hours changes "
            "nothing and gets the first response again, with `Idempotent-Replayed: true`."
        ),
    ] = None,
) -> IdempotentRequest:
    return IdempotentRequest(request, session, idempotency_key)


IdempotentDep = Annotated[IdempotentRequest, Depends(_idempotent_request)]


async def _claim(session: AsyncSession, row: dict[str, str], request_hash: bytes) -> bool:
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
        claimed = await session.execute(statement.returning(IDEMPOTENCY_KEYS.c.key))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise IdempotencyInProgress from error
        raise
    return claimed.first() is not None


async def _replay(session: AsyncSession, row: dict[str, str], request_hash: bytes) -> Response:
    first = (await session.execute(select(IDEMPOTENCY_KEYS).filter_by(**row))).one_or_none()
    if first is None:  # it has expired and was pruned since
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
    """Return the key, which may be a structured-field String in quotes (RFC 9651, 3.3.3)."""
    key = header.strip()
    if key.startswith('"'):
        if not re.fullmatch(r'"(?:[^"\\]|\\["\\])*"', key):
            raise IdempotencyKeyInvalid
        key = re.sub(r"\\(.)", r"\1", key[1:-1])
    if not re.fullmatch(rf"[\x20-\x7e]{{1,{MAX_KEY_LENGTH}}}", key):
        raise IdempotencyKeyInvalid
    return key
