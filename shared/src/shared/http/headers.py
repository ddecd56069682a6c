"""What every answer tells the browser that gets it, and which sites' scripts may read answers (CORS)."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Send

from shared.http.problems import origin_not_allowed

RawHeaders = Collection[tuple[bytes, bytes]]

# For answers that are data. Opened as a page, even one that holds a script shows nothing and does nothing.
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"

# An answer sent to somebody with a token is for nobody else, and stays on no disk.
_KEEP_NOTHING = (b"cache-control", b"no-store")
_YEAR = 365 * 24 * 3600

_CORS_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_CORS_SENT = (
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
_CORS_SHOWN = ("ETag", "Link", "Location", "Retry-After", "X-Request-ID")
# Two hours is as long as any browser remembers it.
_CORS_REMEMBERED = 2 * 3600


class AnswerHeaders:
    """The headers of browsers' safety for every answer. No middleware: each costs the busiest routes dearly."""

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

    def completed(self, answer: RawHeaders, request: RawHeaders) -> list[tuple[bytes, bytes]]:
        """Those of ``answer`` and what it lacks: what a route has set itself is kept."""
        there = {name for name, _ in answer}
        complete = [*answer, *[header for header in self._headers if header[0] not in there]]
        if b"cache-control" not in there and any(name == b"authorization" for name, _ in request):
            complete.append(_KEEP_NOTHING)
        return complete

    def sent_with(self, send: Send, request: RawHeaders) -> Send:
        async def send_completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self.completed(message["headers"], request)
            await send(message)

        return send_completed


class Cors(CORSMiddleware):
    """Starlette's, which refuses with a problem document instead of plain text.

    Credentials in the browser's sense (cookies, client certificates) are never allowed, as none are read: a script
    that may ask shows its token itself. So even ``*`` lends no site the rights of a visitor.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str], headers: AnswerHeaders) -> None:
        self._headers = headers
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_CORS_METHODS,
            allow_headers=_CORS_SENT,
            expose_headers=_CORS_SHOWN,
            max_age=_CORS_REMEMBERED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code != 200:
            refusal = origin_not_allowed(bytes(answer.body).decode())
            for name in ("access-control-allow-origin", "vary"):
                if name in answer.headers:
                    refusal.headers[name] = answer.headers[name]
            answer = refusal
        # It goes out without ever reaching what completes the others.
        answer.raw_headers = self._headers.completed(answer.raw_headers, ())
        return answer
