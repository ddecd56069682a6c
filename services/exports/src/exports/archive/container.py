"""The zip of an archive: every declaration is verified, and nothing is unpacked onto a disk.

Names are looked up, never joined to a path. Declared sizes are checked first because it is cheap, and counted again
while reading because they may be false. Blocking: call it in a thread.
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
    title = "Invalid zip file"


class UnsafeName(Problem):
    status = 422
    code = "unsafe-member-name"
    title = "Unsafe member name"


class DuplicateMember(Problem):
    status = 422
    code = "duplicate-member"
    title = "Duplicate archive member"


class EncryptedMember(Problem):
    status = 422
    code = "encrypted-member"
    title = "Encrypted archive member"


class MemberBroken(Problem):
    status = 422
    code = "member-broken"
    title = "Unreadable archive member"


class ArchiveTooLarge(Problem):
    status = 413
    code = "archive-too-large"
    title = "Archive too large"


class _GuardedFile(io.FileIO):
    """Inspect what zipfile reads, to refuse a directory of a million entries before it becomes objects.

    The counts in the zip's end record may be false, so count in the bytes that zipfile is about to parse.
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
    """An opened zip with a checked list of members. The size limits apply to all that is read from it."""

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
        """Return the names of the files, without a common folder and without files of file managers."""
        return list(self._members)

    def declared_size(self, name: str) -> int:
        return self._members[name].file_size

    def find(self, reference: str) -> str | None:
        """Return the member that a reference means; case, Unicode form and percent-escapes may differ."""
        name = reference.strip().lstrip("/")
        if name in self._members:
            return name
        return next((self._spellings[s] for s in _spellings(name) if s in self._spellings), None)

    def chunks(self, name: str, size_limit: int) -> Iterator[bytes]:
        """Yield the content. Raise ``ArchiveTooLarge`` above the limits, ``MemberBroken`` for damage."""
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
    """Open and check a zip. Raise a problem of this module when a check fails."""
    with _GuardedFile(path, "rb") as file:
        file.limits = limits
        try:
            archive = zipfile.ZipFile(file)
        except _ZIP_ERRORS as error:
            raise NotAnArchive(
                f"The file is not a valid zip ({error}). Send the complete .zip file of an export.",
                field="archive",
            ) from error
        file.is_listing = False
        with archive:
            yield Archive(archive, _checked_members(archive, limits), limits)


# The exceptions that zipfile raises for invalid files.
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
                f"Member {printable(info.orig_filename)} is encrypted. Create the zip again without a password.",
                field=printable(info.orig_filename),
            )
    _check_overlaps(infos, archive.start_dir)
    if infos:
        largest = max(infos, key=lambda info: info.file_size)
        _check_total(sum(info.file_size for info in infos), printable(largest.orig_filename), limits)
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
                f"Member {name!r} is compressed with method {info.compress_type}; it must be stored or deflated. "
                "Create the zip again with deflate.",
                field=name,
            )
        _check_ratio(name, info.file_size, info.compress_size, limits)
        files[name] = info
    wrapper = _wrapping_folder(files)
    return {name.removeprefix(wrapper): info for name, info in files.items()}


def unsafe_reason(name: str, limits: Limits = LIMITS) -> str | None:
    """Return why the name is not allowed for a member, or ``None`` if it is."""
    if not name or _CONTROL.search(name):
        return "is empty or has control characters"
    if len(name.encode("utf-8", "surrogatepass")) > limits.name_size:
        return f"is longer than {limits.name_size} bytes"
    if "\\" in name or _DRIVE.match(name):
        return "is a Windows path with a drive or a backslash"
    if name.startswith("/"):
        return "is an absolute path"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "has the part '.' or '..' or an empty part"
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
            f"The name of member {printable(name)} {reason}. Create the zip again with files and relative paths.",
            field=printable(name),
        )


def printable(name: str) -> str:
    """Return an untrusted name without characters that are unsafe in logs, JSON or a database."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in name[:100])


def _check_overlaps(infos: list[zipfile.ZipInfo], directory_start: int) -> None:
    """Refuse members that share packed data, which would make the ratio meaningless.

    Python before 3.11.8 does not check this itself (CVE-2024-0450).
    """
    ordered = sorted(infos, key=lambda info: info.header_offset)
    ends = [info.header_offset for info in ordered[1:]] + [directory_start]
    for info, end in zip(ordered, ends, strict=False):  # an empty zip has an end too
        if info.header_offset < 0 or info.header_offset + _LOCAL_HEADER_SIZE + info.compress_size > end:
            raise NotAnArchive(
                f"The data of member {printable(info.orig_filename)} overlaps other data: the zip is damaged or "
                "malicious. Create it again with another program.",
                field=printable(info.orig_filename),
            )


def _check_total(size: int, member: str, limits: Limits) -> None:
    """Refuse a total size above the limit; ``member`` is named as the likely cause."""
    if size > limits.total_size:
        raise ArchiveTooLarge(
            f"The archive unpacks to more than {limits.total_size:,} bytes; check member {member!r} first. Leave "
            "out recordings and other large files; only JSON and images are imported.",
            field=member,
        )


def _check_ratio(name: str, size: int, packed_size: int, limits: Limits) -> None:
    if size > limits.ratio_free_size and size > limits.ratio * packed_size:
        raise ArchiveTooLarge(
            f"Member {name!r} unpacks to more than {limits.ratio} times its packed size. Leave it out, or "
            "store it uncompressed.",
            field=name,
        )


def _wrapping_folder(names: dict[str, zipfile.ZipInfo]) -> str:
    """Return the common folder of all members with its slash, or an empty text."""
    folder = next(iter(names), "").partition("/")[0] + "/"
    wraps = f"{folder}event" in names and all(name.startswith(folder) for name in names)
    return folder if wraps else ""


def _spellings(name: str) -> list[str]:
    forms = [name, unquote(name)]
    for misread in ("cp437", "latin-1"):  # UTF-8 decoded as code page 437 by zipfile, as Latin-1 by old servers
        with suppress(UnicodeError):
            forms.append(name.encode(misread).decode("utf-8"))
    return [unicodedata.normalize("NFC", form).casefold() for form in forms]


def _damaged(name: str, error: Exception) -> MemberBroken:
    return MemberBroken(
        f"Member {name!r} is damaged in the zip ({error}). Create or download the archive again.", field=name
    )
