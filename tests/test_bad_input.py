"""Invalid input is refused with a problem document that names the field, and nothing of it is stored."""

import io
import json
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from deploy.local.issuer import load_issuer
from tests.cluster import Cluster

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

EVENT = {
    "id": 1,
    "name": "Probe",
    "timezone": "Europe/Berlin",
    "starts_at": "2031-05-01T09:00:00",
    "ends_at": "2031-05-02T18:00:00",
}


def archive(event: Any = EVENT, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        if event is not None:
            opened.writestr("event", json.dumps(event))
        for name, content in members.items():
            opened.writestr(name.replace("__", "/"), content)
    return file.getvalue()


def path_traversal() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("event", json.dumps(EVENT))
        opened.writestr("../../evil", b"x")
    return file.getvalue()


def zip_bomb() -> bytes:
    """Return a zip of 10 MB with a member of 10 GB: copies of one deflated block of zeros."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(b"\0" * (100 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    size, copies = 100 << 20, 102
    data = block * copies + b"\x03\x00"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("event", json.dumps(EVENT))
    body = bytearray(file.getvalue())
    # Append the member by hand: the zipfile module would have to deflate all ten gigabytes.
    directory_at = body.rindex(b"PK\x05\x06")
    central_at = struct.unpack_from("<I", body, directory_at + 16)[0]
    name, declared = b"sessions", min(size * copies, 0xFFFFFFFE)
    local = (
        struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 8, 0, 33, 0, len(data), declared, len(name), 0) + name
    )
    central = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 8, 0, 33, 0, len(data), declared, len(name), 0, 0, 0, 0, 0,
        central_at,
    ) + name  # fmt: skip
    old_central = bytes(body[central_at:directory_at])
    new_central_at = central_at + len(local) + len(data)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 2, 2, len(old_central) + len(central), new_central_at, 0)
    return bytes(body[:central_at]) + local + data + old_central + central + end


def huge_png() -> bytes:
    """Return a complete PNG of 200 megapixels in some 30 KB."""
    width, height = 20_000, 10_000

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(b"\0" * (1 + width // 8) * 1000) for _ in range(height // 1000))
    pixels = rows + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def stored(cluster: Cluster, client: httpx.Client) -> dict[str, Any]:
    """Return what an upload could leave behind: the number of rows that the organizer can list, and files."""
    rows = {
        path: len(client.get(path, params={"limit": 200}).json()["items"])
        for path in ("/v1/events", "/v1/images", "/v1/imports")
    }
    files = sorted(str(path) for path in (cluster.state / "storage").rglob("*") if path.is_file())
    return {**rows, "files": files}


@pytest.mark.parametrize(
    ("make", "status", "code", "field"),
    [
        (lambda: b"this is not a zip", 422, "not-a-zip", "archive"),
        (lambda: archive(event=None, sessions=b"[]"), 422, "event-missing", "event"),
        (lambda: archive(sessions=b'[{"id": 1,]'), 422, "member-broken", "sessions"),
        (path_traversal, 422, "unsafe-member-name", "../../evil"),
        (zip_bomb, 413, "archive-too-large", "sessions"),
        (lambda: archive({**EVENT, "timezone": "Europe/Atlantis"}), 422, "unknown-zone", "event"),
        (lambda: archive({**EVENT, "ends_at": "2031-04-01T09:00:00"}), 422, "ends-before-it-starts", "event"),
        (lambda: archive({**EVENT, "starts_at": "2031-03-30T02:30:00"}), 422, "time-in-gap", "event"),
    ],
    ids=["not a zip", "no event", "broken json", "path traversal", "zip bomb", "zone", "end before start", "gap"],
)
def test_an_invalid_archive_is_refused_on_upload(
    cluster: Cluster, make: Callable[[], bytes], status: int, code: str, field: str
) -> None:
    with cluster.client(f"bad-{code}") as client:
        before = stored(cluster, client)
        started = time.monotonic()
        answer = client.post("/v1/imports", files={"file": ("archive.zip", make())})
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (status, code), problem
        assert answer.headers["content-type"] == "application/problem+json"
        assert any(field in error["field"] for error in problem["errors"]), problem
        assert time.monotonic() - started < 20
        assert stored(cluster, client) == before


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda: b"<svg/>", (415, 422)),
        (lambda: b"hello", (422,)),
        (huge_png, (422,)),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(12 << 20), (413,)),
    ],
    ids=["svg", "not an image", "200 megapixels", "too many bytes"],
)
def test_an_invalid_picture_is_refused(
    cluster: Cluster, make: Callable[[], bytes], status: tuple[int, ...]
) -> None:
    with cluster.client("bad-pictures") as client:
        before = stored(cluster, client)
        answer = client.post("/v1/images", files={"file": ("a.png", make())})
        assert answer.status_code in status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert stored(cluster, client) == before


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"timezone": "Europe/Berlim"}, "unknown-zone", "timezone"),
        ({"starts_at": "2031-03-30T02:30"}, "time-in-gap", "starts_at"),
        ({"starts_at": "2030-10-27T02:30", "ends_at": "2030-10-28T02:30"}, "time-in-fold", "starts_at"),
        ({"ends_at": "2031-05-01T08:00"}, "ends-before-it-starts", "ends_at"),
        ({"name": "a\u0000b"}, "invalid", "name"),
        ({"name": ""}, "invalid", "name"),
        ({"unknown": 1}, "invalid", "unknown"),
    ],
)
def test_an_invalid_event_is_refused_by_field(
    organizer: httpx.Client, fields: dict[str, Any], code: str, field: str
) -> None:
    body = {key: value for key, value in EVENT.items() if key != "id"} | fields
    answer = organizer.post("/v1/events", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code), problem
    assert any(error["field"].endswith(field) for error in problem["errors"]), problem
    if code in ("time-in-gap", "time-in-fold"):
        assert len(problem["errors"][0]["alternatives"]) == 2


def test_a_body_over_the_limit_is_refused(organizer: httpx.Client) -> None:
    answer = organizer.post("/v1/events", json={"name": "x" * (2 << 20)})
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
    assert answer.headers["content-type"] == "application/problem+json"


def tokens(cluster: Cluster) -> dict[str, str]:
    issuer = load_issuer(cluster.state / "issuer")
    forged = RSAKey.generate_key(2048, {"kid": str(issuer.key.kid)}, private=True)
    claims = {
        "iss": "https://elsewhere.example",
        "aud": "rostrum",
        "sub": "x",
        "org": "acme",
        "scope": "events:write",
    }
    now = int(time.time())
    header = {"alg": "RS256", "typ": "at+jwt", "kid": issuer.key.kid}
    return {
        "missing": "",
        "expired": issuer.issue("x", org="acme", lifetime=-120),
        "of another issuer": jwt.encode(header, {**claims, "iat": now, "exp": now + 600}, issuer.key),
        "of another key": jwt.encode(
            header, {**claims, "iss": "https://local-issuer.rostrum.invalid", "exp": now + 600}, forged
        ),
        "garbage": "a.b.c",
    }


@pytest.mark.parametrize("kind", ["missing", "expired", "of another issuer", "of another key", "garbage"])
def test_an_invalid_token_is_refused_by_every_service(cluster: Cluster, kind: str) -> None:
    token = tokens(cluster)[kind]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    event = "00000000-0000-7000-8000-000000000000"
    with httpx.Client(base_url=cluster.url, headers=headers, timeout=30) as client:
        for method, path in (
            ("POST", "/v1/events"),
            ("POST", f"/v1/events/{event}/tickets"),
            ("GET", "/v1/images"),
            ("POST", "/v1/imports"),
            ("POST", f"/v1/events/{event}/exports"),
        ):
            answer = client.request(method, path)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.json()["code"] == "unauthenticated"
            assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_refusal_names_the_missing_scope(cluster: Cluster) -> None:
    with cluster.client(scope="events:read") as client:
        answer = client.post("/v1/events", json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")
    assert "events:write" in answer.json()["detail"]


def test_broken_json_in_a_real_archive_is_refused_with_its_line(
    organizer: httpx.Client, sample: Callable[[str], Path]
) -> None:
    content = sample("FOSSASIASummit2011.zip").read_bytes()
    answer = organizer.post("/v1/imports", files={"file": ("a.zip", content)})
    assert answer.status_code == 422
    assert "session_types" in answer.json()["errors"][0]["field"]
    assert "line 12" in answer.json()["detail"]
