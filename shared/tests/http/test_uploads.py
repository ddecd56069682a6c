import os
from collections.abc import AsyncIterator, Iterable

import httpx
import pytest
from fastapi import Request
from starlette.types import Message

from shared.http.uploads import (
    FORM_OVERHEAD,
    FormMissing,
    FormUnreadable,
    UploadCutOff,
    form_of,
    read_to_end,
    received_body,
    received_form,
)
from shared.problems import Invalid, Problem, TooLarge
from shared.storage.files import Upload

MAX_SIZE = 1000


def too_large() -> TooLarge:
    return TooLarge("Too large.")


class Sender:
    """Sends chunks of a body, and then leaves unless the body ``is_whole``."""

    def __init__(self, chunks: Iterable[bytes], is_whole: bool = True) -> None:
        self.sent = 0
        self._messages = self._all(chunks, is_whole)

    async def receive(self) -> Message:
        return await anext(self._messages)

    async def _all(self, chunks: Iterable[bytes], is_whole: bool) -> AsyncIterator[Message]:
        for chunk in chunks:
            self.sent += 1
            yield {"type": "http.request", "body": chunk, "more_body": True}
        yield {"type": "http.request", "body": b""} if is_whole else {"type": "http.disconnect"}


def request_of(sender: Sender, headers: dict[str, str] | None = None) -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, sender.receive)


def form_request(data: dict[str, str], files: dict[str, tuple[str | None, bytes]]) -> Request:
    form = httpx.Request("POST", "http://rostrum.test", data=data, files=files)
    return request_of(Sender([form.read()]), {"Content-Type": form.headers["Content-Type"]})


async def content(upload: Upload) -> bytes:
    return b"".join([chunk async for chunk in upload.chunks()])


async def test_a_body_is_received_whole_into_a_file_without_a_name() -> None:
    async with received_body(request_of(Sender([b"ab", b"c"])), max_size=3, too_large=too_large) as upload:
        assert (upload.size, await content(upload), upload.path.read_bytes()) == (3, b"abc", b"abc")
        assert os.fstat(upload.file.fileno()).st_nlink == 0
    assert upload.file.closed


async def test_a_body_over_the_limit_is_refused_without_reading_the_rest() -> None:
    sender = Sender([bytes(600)] * 10)
    with pytest.raises(TooLarge):
        async with received_body(request_of(sender), max_size=MAX_SIZE, too_large=too_large):
            pass
    assert sender.sent == 2

    sender = Sender([bytes(600)] * 10)
    with pytest.raises(TooLarge):
        await read_to_end(request_of(sender, {"Content-Length": "6000"}), max_size=MAX_SIZE, too_large=too_large)
    assert sender.sent == 0


async def test_a_sender_that_leaves_is_told_apart_from_a_short_body() -> None:
    sender = Sender([b"ab"], is_whole=False)
    with pytest.raises(UploadCutOff):
        async with received_body(request_of(sender), max_size=MAX_SIZE, too_large=too_large):
            pass
    form = request_of(Sender([b"--b\r\n"], is_whole=False), {"Content-Type": "multipart/form-data; boundary=b"})
    with pytest.raises(UploadCutOff):
        async with received_form(form, max_size=MAX_SIZE, too_large=too_large):
            pass


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("a.png", "a.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\a.png", "a.png"),
        ("a\u202eb.png", "ab.png"),
        ("x" * 300, "x" * 255),
    ],
)
async def test_a_form_is_received_with_its_fields_and_a_printable_name(sent: str, name: str) -> None:
    request = form_request({"kind": "event"}, {"file": (sent, b"content")})
    async with received_form(request, max_size=MAX_SIZE, too_large=too_large, fields=("kind",)) as upload:
        assert (upload.name, upload.size, upload.fields) == (name, 7, {"kind": "event"})
        assert await content(upload) == b"content"


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (request_of(Sender([b"{}"]), {"Content-Type": "application/json"}), FormMissing),
        (request_of(Sender([b"x"]), {"Content-Type": "multipart/form-data"}), FormUnreadable),
        (form_request({"other": "x"}, {"file": ("a", b"x")}), Invalid),
        (form_request({}, {"file": (None, b"text")}), Invalid),
        (form_request({}, {"file": ("a", bytes(MAX_SIZE + 1))}), TooLarge),
        (form_request({}, {"file": ("a", bytes(MAX_SIZE + FORM_OVERHEAD))}), TooLarge),
    ],
    ids=["no form", "no boundary", "unknown field", "text as file", "just too large", "far too large"],
)
async def test_other_forms_are_refused(request_: Request, problem: type[Problem]) -> None:
    with pytest.raises(problem):
        async with received_form(request_, max_size=MAX_SIZE, too_large=too_large, fields=("kind",)):
            pass


def test_the_description_of_a_form_names_its_fields() -> None:
    body = form_of("A picture.", {"kind": {"type": "string"}})["requestBody"]
    schema = body["content"]["multipart/form-data"]["schema"]
    assert schema["properties"] == {
        "file": {"type": "string", "format": "binary", "description": "A picture."},
        "kind": {"type": "string"},
    }
    assert (schema["required"], schema["additionalProperties"]) == (["file"], False)
