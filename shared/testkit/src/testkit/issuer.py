"""A token issuer for the tests of ``shared.auth``: a real HTTP server for its keys, and tokens made by hand."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from joserfc.jwk import OKPKey, RSAKey
from joserfc.jws import JWSRegistry

ISSUER = "https://login.example/realms/rostrum"
AUDIENCE = "rostrum"
RSA = RSAKey.generate_key(2048, {"kid": "rsa-1"})
ROTATED = RSAKey.generate_key(2048, {"kid": "rsa-2"})
FOREIGN = RSAKey.generate_key(2048, {"kid": "rsa-1"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed-1"})


class Clock:
    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Issuer:
    """An HTTP server that answers every request with ``head``, ``headers`` and ``body``."""

    def __init__(self) -> None:
        self.body = b""
        self.head = b"HTTP/1.1 200 OK"
        self.headers = b""
        self.requests: list[str] = []
        self.was_asked = asyncio.Event()
        self.may_respond = asyncio.Event()
        self.may_respond.set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._respond, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}/jwks.json"
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()

    def publish(self, *keys: RSAKey | OKPKey | dict[str, Any]) -> None:
        entries = [key if isinstance(key, dict) else key.as_dict() for key in keys]
        self.body = json.dumps({"keys": entries}).encode()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(request.split(b"\r\n")[0].decode())
        self.was_asked.set()
        await self.may_respond.wait()
        length = str(len(self.body)).encode()
        writer.write(
            self.head + b"\r\n" + self.headers + b"Content-Length: " + length + b"\r\nConnection: close\r\n\r\n"
        )
        writer.write(self.body)
        with contextlib.suppress(ConnectionError):  # the client may have closed the connection
            await writer.drain()
        writer.close()


def claims(now: Clock, **changes: Any) -> dict[str, Any]:
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "user:7",
        "org": "fossasia",
        "scope": "events:read events:write",
        "exp": int(now.at) + 600,
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not ...}


def signed(payload: dict[str, Any], key: RSAKey | OKPKey = RSA, *, alg: object = "RS256", **header: Any) -> str:
    header = {name: value for name, value in {"alg": alg, "kid": key.kid, **header}.items() if value is not ...}
    return by_hand(header, json.dumps(payload).encode(), key)


def by_hand(header: dict[str, Any] | bytes, payload: bytes, key: RSAKey | OKPKey | None) -> str:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    signing_input = f"{b64(head)}.{b64(payload)}"
    if key is None:
        return f"{signing_input}."
    name = "RS256" if isinstance(key, RSAKey) else "Ed25519"
    signature = JWSRegistry.algorithms[name].sign(signing_input.encode(), key)
    return f"{signing_input}.{b64(signature)}"


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
