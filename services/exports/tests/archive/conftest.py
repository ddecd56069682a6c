import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exports.archive.reader import ReadArchive, read_archive

Members = dict[str, Any]
EVENT: Members = {
    "id": 7,
    "name": "Long night",
    "timezone": "Europe/Berlin",
    "starts_at": "2027-10-30T09:00:00+02:00",
    "ends_at": "2027-10-31T18:00:00+01:00",
}


@pytest.fixture
def event() -> Members:
    return dict(EVENT)


@pytest.fixture
def zipped(tmp_path: Path) -> Callable[[Members], Path]:
    """A zip of members: bytes as they are, anything else as JSON."""

    def make(members: Members) -> Path:
        path = tmp_path / "archive.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
        return path

    return make


@pytest.fixture
def read(zipped: Callable[[Members], Path]) -> Callable[..., ReadArchive]:
    """Reads an archive of one event with the given other members."""

    def make(**members: Any) -> ReadArchive:
        return read_archive(zipped({"event": EVENT, **members}))

    return make
