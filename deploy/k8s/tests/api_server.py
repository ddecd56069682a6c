"""The part of the Kubernetes API that Traefik uses, with objects that do not change."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from urllib.parse import parse_qs, urlsplit

from deploy.k8s.manifests import Manifest

HOST = "127.0.0.1"


# What Traefik lists; an empty list has a kind too.
_CORE = ("Namespace", "Node", "Service", "Secret", "ConfigMap")
_GATEWAY = (
    *("GatewayClass", "Gateway", "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "UDPRoute", "ListenerSet"),
    *("ReferenceGrant", "BackendTLSPolicy"),
)
_TRAEFIK = (
    *("Middleware", "MiddlewareTCP", "IngressRoute", "IngressRouteTCP", "IngressRouteUDP", "TraefikService"),
    *("ServersTransport", "ServersTransportTCP", "TLSOption", "TLSStore"),
)


def plural(kind: str) -> str:
    lower = kind.lower()
    if lower.endswith("cy"):
        return f"{lower[:-1]}ies"
    return f"{lower}es" if lower.endswith("ss") else f"{lower}s"


_KINDS = {plural(kind): kind for kind in (*_CORE, "EndpointSlice", *_GATEWAY, *_TRAEFIK)}


class ApiServer:
    def __init__(self, objects: Iterable[Manifest]) -> None:
        self._by_path: dict[str, list[Manifest]] = {}
        for number, each in enumerate(objects, 1):
            metadata = {"uid": f"uid-{number}", "resourceVersion": "1", "generation": 1, **each["metadata"]}
            prefix = "/api/v1" if each["apiVersion"] == "v1" else f"/apis/{each['apiVersion']}"
            self._by_path.setdefault(f"{prefix}/{plural(each['kind'])}", []).append({**each, "metadata": metadata})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *lines = head.strip().split("\r\n")
        method, target, _ = request.split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        url, query = urlsplit(target), parse_qs(urlsplit(target).query)
        if method != "GET":  # an update of a route's or gateway's status
            return await _send(writer, 200, body)
        if url.path == "/version":
            return await _send(writer, 200, json.dumps({"major": "1", "minor": "37"}).encode())
        if "sendInitialEvents" in query:  # the list, before the watch
            return await _send(writer, 422, json.dumps(_REFUSAL).encode())
        if "watch" in query:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            await writer.drain()
            await reader.read(1)  # nothing changes: wait until Traefik disconnects
            return False
        *_, version, resource = url.path.split("/")
        group = url.path.split("/")[2] if url.path.startswith("/apis/") else ""
        answer = {
            "kind": f"{_KINDS[resource]}List",
            "apiVersion": f"{group}/{version}" if group else version,
            "metadata": {"resourceVersion": "1"},
            "items": self._by_path.get(url.path, []),
        }
        return await _send(writer, 200, json.dumps(answer).encode())


_REFUSAL = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422}


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes) -> bool:
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return True


@contextlib.asynccontextmanager
async def serving(objects: Iterable[Manifest]) -> AsyncIterator[str]:
    """Serve the objects; yield the URL."""
    api = ApiServer(objects)
    server = await asyncio.start_server(api.serve, HOST, 0)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
