"""The security headers of every response, and the origins whose scripts may read responses (CORS)."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Send

from shared.http.problems import origin_not_allowed

RawHeaders = Collection[tuple[bytes, bytes]]

# For responses that are data: opened as a page, they run no script and load nothing.
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"

# A response to a request with a token is for its caller only, and no cache may store it.
_NO_STORE = (b"cache-control", b"no-store")
_YEAR = 365 * 24 * 3600

_CORS_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_CORS_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Range",
    "X-Request-ID",
    "traceparent",
    "tracestate",
)
_CORS_RESPONSE_HEADERS = ("ETag", "Link", "Location", "Retry-After", "X-Request-ID")
# Two hours, the most that any browser keeps a preflight response.
_CORS_MAX_AGE = 2 * 3600


class ResponseHeaders:
    """The security headers of every response. Not a middleware: one more would slow down the busiest routes."""

    def __init__(self, public_url: str) -> None:
        headers = {
            "Content-Security-Policy": DATA_POLICY,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        if public_url.startswith("https:"):
            headers["Strict-Transport-Security"] = f"max-age={_YEAR}"
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    def completed(self, response: RawHeaders, request: RawHeaders) -> list[tuple[bytes, bytes]]:
        """Return the headers of ``response`` with those that it lacks; a route's own headers win."""
        own = {name for name, _ in response}
        complete = [*response, *[header for header in self._headers if header[0] not in own]]
        if b"cache-control" not in own and any(name == b"authorization" for name, _ in request):
            complete.append(_NO_STORE)
        return complete

    def sent_with(self, send: Send, request: RawHeaders) -> Send:
        async def send_completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self.completed(message["headers"], request)
            await send(message)

        return send_completed


class Cors(CORSMiddleware):
    """Starlette's middleware with problem documents for its refusals.

    It never allows credentials in the browser's sense (cookies, client certificates), as services read none: a
    script sends its token itself. So not even ``*`` gives an origin the rights of a visitor.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str], headers: ResponseHeaders) -> None:
        self._headers = headers
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_CORS_METHODS,
            allow_headers=_CORS_REQUEST_HEADERS,
            expose_headers=_CORS_RESPONSE_HEADERS,
            max_age=_CORS_MAX_AGE,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            refusal = origin_not_allowed(bytes(response.body).decode())
            for name in ("access-control-allow-origin", "vary"):
                if name in response.headers:
                    refusal.headers[name] = response.headers[name]
            response = refusal
        # It does not pass ``RequestContext``, which completes the others.
        response.raw_headers = self._headers.completed(response.raw_headers, ())
        return response
