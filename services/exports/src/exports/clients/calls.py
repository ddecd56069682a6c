"""Calls to the peer services: one client, this service's own token, retries, and their refusals passed on.

Every call made here may be repeated: it reads, or it names the import that it belongs to.
"""

import asyncio
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, TypeVar

import httpx
from opentelemetry.trace import SpanKind
from pydantic import BaseModel, ValidationError

from exports.settings import ExportsSettings
from shared.auth.outgoing import ServiceTokenAuth
from shared.contracts.calls import Request
from shared.contracts.problem import ProblemDocument
from shared.problems import FieldError, Problem, Unavailable
from shared.storage.files import in_thread
from shared.telemetry.logs import get_logger
from shared.telemetry.traces import current_traceparent, span

log = get_logger(__name__)

CONNECT_TIMEOUT = 5.0
TIMEOUT = 60.0
PAUSES = (0.2, 0.5, 1.0)
CHUNK = 256 << 10

Content = bytes | Callable[[], AsyncIterable[bytes]]
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True)
class PeerServices:
    """The services that hold what is imported and exported. ``pauses`` are the seconds before each retry."""

    http: httpx.AsyncClient
    events_url: str
    tickets_url: str
    media_url: str
    pauses: tuple[float, ...] = PAUSES


class PeerUnavailable(Unavailable):
    """The peer cannot be reached, answers "not now", or refuses our token: the request itself is not at fault."""

    code = "service-unavailable"


class PeerFailed(Exception):
    """The peer answered with an error of its own or with a body that this release cannot read, or broke off.

    A repetition may help or not.
    """


@asynccontextmanager
async def open_peers(
    settings: ExportsSettings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    pauses: tuple[float, ...] = PAUSES,
) -> AsyncIterator[PeerServices]:
    """Open once per process. ``transport`` replaces the network, for tests."""
    async with httpx.AsyncClient(
        auth=ServiceTokenAuth(settings.service_token_file),
        timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT),
        limits=httpx.Limits(max_connections=40, max_keepalive_connections=20),
        trust_env=False,
        transport=transport,
    ) as http:
        yield PeerServices(http, settings.events_url, settings.tickets_url, settings.media_url, pauses)


async def call(
    peers: PeerServices,
    method: str,
    url: str,
    *,
    query: Request | None = None,
    content: Content | None = None,
    content_type: str = "application/json",
    into: IO[bytes] | None = None,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - of httpx, for each read and write
) -> httpx.Response:
    """Return a successful answer. ``into`` receives its body in place of the response, whole or not at all.

    Raises the peer's refusal as a ``Problem`` of the same status, code and detail, ``PeerUnavailable`` when it
    cannot be reached or keeps answering 503, and ``PeerFailed`` when it fails.
    """
    params = None if query is None else query.model_dump(mode="json")
    failure: Exception
    for pause in (*peers.pauses, None):
        try:
            with span(method, SpanKind.CLIENT, {"http.request.method": method, "url.full": url}):
                response = await _attempt(peers, method, url, params, content, content_type, into, timeout)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = PeerUnavailable(f"{_host(url)} cannot be reached. Try again.")
            failure.__cause__ = error
        except httpx.TimeoutException as error:
            raise PeerFailed(f"{method} {url}: {type(error).__name__}") from error
        except httpx.TransportError as error:
            failure = PeerFailed(f"{method} {url}: {type(error).__name__} {error}")
            failure.__cause__ = error
        else:
            if response.status_code != 503:
                return _checked(response)
            failure = PeerUnavailable(f"{_host(url)} is unavailable at the moment. Try again.")
        if pause is None:
            raise failure
        log.info("peer.call_retried", method=method, url=url, reason=str(failure))
        await asyncio.sleep(pause * random.uniform(0.7, 1.3))
    raise AssertionError("unreachable")


def parsed(body: type[Body], response: httpx.Response) -> Body:
    """Return the answer's body. Raises ``PeerFailed`` when this release cannot read it without losing a part."""
    try:
        return body.model_validate_json(response.content)
    except ValidationError as error:
        request = response.request
        raise PeerFailed(f"{request.method} {request.url}: {_first_errors(error)}") from error


def _first_errors(error: ValidationError) -> str:
    lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False)[:3]]
    return "; ".join(lines)


async def _attempt(
    peers: PeerServices,
    method: str,
    url: str,
    params: Mapping[str, str] | None,
    content: Content | None,
    content_type: str,
    into: IO[bytes] | None,
    timeout: float,  # noqa: ASYNC109 - as above
) -> httpx.Response:
    headers = {"Content-Type": content_type} if content is not None else {}
    if traceparent := current_traceparent():
        headers["traceparent"] = traceparent
    request = peers.http.build_request(
        method,
        url,
        params=params,
        content=content() if callable(content) else content,
        headers=headers,
        timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT),
    )
    response = await peers.http.send(request, stream=True)
    try:
        if into is None or response.is_error:
            await response.aread()
        else:
            await _save(response, into)
    finally:
        await response.aclose()
    return response


async def _save(response: httpx.Response, file: IO[bytes]) -> None:
    await in_thread(partial(_empty, file))
    size = 0
    async for chunk in response.aiter_raw(CHUNK):
        size += await in_thread(partial(file.write, chunk))
    declared = response.headers.get("content-length")
    if declared is not None and int(declared) != size:
        raise httpx.RemoteProtocolError(f"received {size} of {declared} bytes")


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    url = str(response.request.url)
    if response.status_code in (401, 403):
        log.error("peer.token_refused", url=url, status=response.status_code, answer=response.text[:500])
        raise PeerUnavailable(f"{_host(url)} does not accept this service's own token at the moment. Try again.")
    try:
        document = ProblemDocument.model_validate_json(response.content)
    except ValidationError:
        document = None
    if document is None or response.status_code >= 500:
        raise PeerFailed(f"{response.request.method} {url}: {response.status_code} {response.text[:200]}")
    refusal: type[Problem] = type(
        "PeerRefused",
        (Problem,),
        {"status": response.status_code, "code": document.code, "title": document.title},
    )
    errors = [FieldError(error.field, error.message, error.model_extra or {}) for error in document.errors]
    raise refusal(document.detail, errors=errors)


def _host(url: str) -> str:
    return f"The service at {httpx.URL(url).netloc.decode('ascii')}"
