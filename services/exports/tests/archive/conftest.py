from pathlib import Path
from typing import Any

import pytest

from exports.archive.reader import ReadArchive, read_archive
from services.exports.tests.factories import EVENT, Members, ReadMembers, ZipFile, zipped


@pytest.fixture
def event() -> Members:
    return dict(EVENT)


@pytest.fixture
def zip_file(tmp_path: Path) -> ZipFile:
    def make(members: Members) -> Path:
        path = tmp_path / "archive.zip"
        path.write_bytes(zipped(members))
        return path

    return make


@pytest.fixture
def read(zip_file: ZipFile) -> ReadMembers:
    def make(**members: Any) -> ReadArchive:
        return read_archive(zip_file({"event": EVENT, **members}))

    return make
