"""The zip around an archive: nothing of it is believed, and nothing is ever unpacked onto a disk.

Names are looked up, never joined to a path. Declared sizes are checked first because it is cheap, and counted again
while reading because they lie. Everything here is blocking: call it in a thread.
"""

import io
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from exports.archive.limits import LIMITS, Limits
from shared.problems import Problem

CHUNK = 1 << 16
_ENTRY_SIGNATURE = b"PK\x01\x02"
_LOCAL_HEADER_SIZE = 30
_JUNK = re.compile(r"(^|/)(__MACOSX/|\.DS_Store$|\._[^/]*$|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")


class NotAnArchive(Problem):
    status = 422
    code = "not-a-zip"
    title = "This is not a zip file"


class UnsafeName(Problem):
    status = 422
    code = "unsafe-member-name"
    title = "The archive holds a member with an unsafe name"


class DuplicateMember(Problem):
    status = 422
    code = "duplicate-member"
    title = "Two members of the archive have the same name"


class EncryptedMember(Problem):
    status = 422
    code = "encrypted-member"
    title = "The archive is protected with a password"


class MemberBroken(Problem):
    status = 422
    code = "member-broken"
    title = "A member of the archive can't be read"


class ArchiveTooLarge(Problem):
    status = 413
    code = "archive-too-large"
    title = "The archive is larger than allowed"


class _GuardedFile(io.FileIO):
    """Sees what zipfile reads, so that a directory of a million entries is refused before it becomes objects.

    The counts in the zip's end record can lie; the bytes that zipfile is about to parse can't.
    """

    limits: Limits
    is_listing = True

    def read(self, size: int | None = -1, /) -> bytes:
        asked = -1 if size is None else size
        if self.is_listing and asked > self.limits.directory_size:
            raise _too_many_entries(self.limits)
        data = super().read(asked) or b""
        if self.is_listing and data.count(_ENTRY_SIGNATURE) > self.limits.entries:
            raise _too_many_entries(self.limits)
        return data


def _too_many_entries(limits: Limits) -> ArchiveTooLarge:
    return ArchiveTooLarge(
        f"The zip lists more than {limits.entries:,} entries. Send the archive of one event, without other files.",
        field="archive",
    )


class Archive:
    """An opened zip whose list of members has been checked; counts what is read from it, over all members."""

    def __init__(self, opened: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], limits: Limits) -> None:
        self._zip = opened
        self._members = members
        self._limits = limits
        self._unpacked = 0
        self._spellings: dict[str, str] = {}
        for name in members:
            for spelling in _spellings(name):
                self._spellings.setdefault(spelling, name)

    @property
    def names(self) -> list[str]:
        """Names of the files, without a folder that wraps them all and without the junk of file managers."""
        return list(self._members)

    def declared_size(self, name: str) -> int:
        return self._members[name].file_size

    def find(self, reference: str) -> str | None:
        """The member that a record means, also when case, Unicode form or percent-escapes differ."""
        name = reference.strip().lstrip("/")
        if name in self._members:
            return name
        return next((self._spellings[s] for s in _spellings(name) if s in self._spellings), None)

    def chunks(self, name: str, size_limit: int) -> Iterator[bytes]:
        """Raises ``ArchiveTooLarge`` when more comes out than allowed, ``MemberBroken`` for damage."""
        info = self._members[name]
        size = 0
        try:
            member = self._zip.open(info)
        except _ZIP_ERRORS as error:
            raise _damaged(name, error) from error
        with member:
            while True:
                try:
                    chunk = member.read(CHUNK)
                except _ZIP_ERRORS as error:
                    raise _damaged(name, error) from error
                if not chunk:
                    return
                size += len(chunk)
                self._unpacked += len(chunk)
                if size > size_limit:
                    raise ArchiveTooLarge(
                        f"Member {name!r} unpacks to more than {size_limit:,} bytes. Make it smaller.", field=name
                    )
                _check_total(self._unpacked, name, self._limits)
                _check_ratio(name, size, info.compress_size, self._limits)
                yield chunk

    def read(self, name: str, size_limit: int) -> bytes:
        return b"".join(self.chunks(name, size_limit))


@contextmanager
def opened(path: Path, limits: Limits = LIMITS) -> Iterator[Archive]:
    """Opens and checks a zip; raises one of this module's problems when it is not to be trusted."""
    with _GuardedFile(path, "rb") as file:
        file.limits = limits
        try:
            archive = zipfile.ZipFile(file)
        except _ZIP_ERRORS as error:
            raise NotAnArchive(
                f"The file can't be read as a zip ({error}). Send the .zip that an export gave, whole.",
                field="archive",
            ) from error
        file.is_listing = False
        with archive:
            yield Archive(archive, _checked_members(archive, limits), limits)


# zipfile meets a hostile file with any of these.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    IndexError,
    KeyError,
    NotImplementedError,
    struct.error,
)


def _checked_members(archive: zipfile.ZipFile, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > limits.entries:
        raise _too_many_entries(limits)
    for info in infos:
        _check_name(info, limits)
        if info.flag_bits & 0x41:
            raise EncryptedMember(
                f"Member {shown(info.orig_filename)} is encrypted. Make the zip again without a password.",
                field=shown(info.orig_filename),
            )
    _check_overlaps(infos, archive.start_dir)
    if infos:
        largest = max(infos, key=lambda info: info.file_size)
        _check_total(sum(info.file_size for info in infos), shown(largest.orig_filename), limits)
    files = {}
    folded: dict[str, str] = {}
    for info in infos:
        name = info.orig_filename
        if info.is_dir() or _JUNK.search(name):
            continue
        twin = folded.setdefault(name.casefold(), name)
        if name in files or twin != name:
            raise DuplicateMember(
                f"Members {twin!r} and {name!r} have the same name, apart from case. Keep one of them.", field=name
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MemberBroken(
                f"Member {name!r} is packed with method {info.compress_type}. Make the zip again with the usual "
                "method, deflate.",
                field=name,
            )
        _check_ratio(name, info.file_size, info.compress_size, limits)
        files[name] = info
    wrapper = _wrapping_folder(files)
    return {name.removeprefix(wrapper): info for name, info in files.items()}


def unsafe_reason(name: str, limits: Limits = LIMITS) -> str | None:
    """Why a member must not have this name, in words; None when it may."""
    if not name or _CONTROL.search(name):
        return "is empty or has control characters"
    if len(name.encode("utf-8", "surrogatepass")) > limits.name_size:
        return f"is longer than {limits.name_size} bytes"
    if "\\" in name or _DRIVE.match(name):
        return "is a path of Windows, with a drive or a backslash"
    if name.startswith("/"):
        return "is an absolute path"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "climbs out of the archive or has empty parts"
    return None


def _check_name(info: zipfile.ZipInfo, limits: Limits) -> None:
    # orig_filename: zipfile cuts its own copy of the name at a NUL.
    name = info.orig_filename
    reason = unsafe_reason(name, limits)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if reason is None and info.create_system == 3 and kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        reason = "is a link or a device, not a file"
    if reason:
        raise UnsafeName(
            f"The name of member {shown(name)} {reason}. Make the zip again with plain files and relative paths.",
            field=shown(name),
        )


def shown(name: str) -> str:
    """A name from a stranger, fit for logs, JSON and a database."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in name[:100])


def _check_overlaps(infos: list[zipfile.ZipInfo], directory_start: int) -> None:
    """Bytes may count as packed data once only, else the ratio means nothing.

    Python before 3.11.8 does not check this itself (CVE-2024-0450).
    """
    ordered = sorted(infos, key=lambda info: info.header_offset)
    ends = [info.header_offset for info in ordered[1:]] + [directory_start]
    for info, end in zip(ordered, ends, strict=False):  # an empty zip has an end all the same
        if info.header_offset < 0 or info.header_offset + _LOCAL_HEADER_SIZE + info.compress_size > end:
            raise NotAnArchive(
                f"The data of member {shown(info.orig_filename)} overlaps other data: the zip is damaged or made "
                "to harm. Make it again with an ordinary program.",
                field=shown(info.orig_filename),
            )


def _check_total(size: int, member: str, limits: Limits) -> None:
    """``member`` is the one to look at first."""
    if size > limits.total_size:
        raise ArchiveTooLarge(
            f"The archive unpacks to more than {limits.total_size:,} bytes; look at member {member!r} first. Leave "
            "out recordings and other large files; only JSON and images are imported.",
            field=member,
        )


def _check_ratio(name: str, size: int, packed_size: int, limits: Limits) -> None:
    if size > limits.ratio_free_size and size > limits.ratio * packed_size:
        raise ArchiveTooLarge(
            f"Member {name!r} unpacks to more than {limits.ratio} times its packed size. Real programmes do not; "
            "leave the member out.",
            field=name,
        )


def _wrapping_folder(names: dict[str, zipfile.ZipInfo]) -> str:
    """The one folder that holds everything, when a user zipped the folder and not what is in it."""
    folder = next(iter(names), "").partition("/")[0] + "/"
    wraps = f"{folder}event" in names and all(name.startswith(folder) for name in names)
    return folder if wraps else ""


def _spellings(name: str) -> list[str]:
    forms = [name, unquote(name)]
    for misread in ("cp437", "latin-1"):  # UTF-8 taken for code page 437 by zipfile, for Latin-1 by old servers
        with suppress(UnicodeError):
            forms.append(name.encode(misread).decode("utf-8"))
    return [unicodedata.normalize("NFC", form).casefold() for form in forms]


def _damaged(name: str, error: Exception) -> MemberBroken:
    return MemberBroken(
        f"Member {name!r} is damaged in the zip ({error}). Make or download the archive again.", field=name
    )
