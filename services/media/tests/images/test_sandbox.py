import asyncio
import io
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

from media.images.conversion import Converted, convert
from media.images.headers import ImageFormatRefused, ImageTooCostly, ImageTooManyPixels, ImageUnreadable
from media.images.sandbox import DecoderLost, Sandbox
from media.images.sizes import VARIANTS
from testkit.processes import until

SAMPLE = Path(__file__).parents[5] / "shared/samples/FBF817.zip"
GIBIBYTE = 1 << 30

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(name="sandbox", scope="module")
async def _sandbox() -> Sandbox:
    return Sandbox(workers=2)


async def converted(sandbox: Sandbox, folder: Path, content: bytes, **limits: int) -> list[Converted]:
    path = folder / "original"
    path.write_bytes(content)
    return await sandbox.run(convert, path, folder, VARIANTS["event"], **limits)


async def assert_still_converts(sandbox: Sandbox, folder: Path) -> None:
    files = await converted(sandbox, folder, picture())
    assert [(file.width, file.height) for file in files] == [(64, 48), (64, 48), (40, 30)]


def picture(fmt: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    content = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(content, fmt)
    return content.getvalue()


async def test_an_image_converts_in_another_process(sandbox: Sandbox, tmp_path: Path) -> None:
    await assert_still_converts(sandbox, tmp_path)

    assert await sandbox.run(os.getpid) != await sandbox.run(os.getpid) != os.getpid()
    assert await sandbox.run(os.getppid) != os.getpid()


async def test_refusals_arrive_as_problems(sandbox: Sandbox, tmp_path: Path) -> None:
    for content, problem in (
        (b"", ImageUnreadable),
        (picture()[:500], ImageUnreadable),
        (b"%PDF-1.4", ImageFormatRefused),
        (picture().replace(b"\0\0\0\x40\0\0\0\x30", b"\0\0\x40\0\0\0\x40\0", 1), ImageTooManyPixels),
    ):
        with pytest.raises(problem) as refused:
            await converted(sandbox, tmp_path, content)
        assert refused.value.document()["errors"][0]["field"] == "file"


async def test_errors_that_are_not_the_images_are_raised(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await sandbox.run(convert, tmp_path / "missing", tmp_path, VARIANTS["event"])


async def test_a_child_that_takes_too_long_is_killed_and_the_next_image_converts(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(ImageTooCostly, match=r"takes longer than 0\.3 s"):
        await sandbox.run(time.sleep, 60.0, wall_seconds=0.3)

    await assert_still_converts(sandbox, tmp_path)


async def test_a_child_that_computes_in_c_code_too_long_is_killed(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(ImageTooCostly, match="more than 1 s of processor time"):
        await sandbox.run(sum, range(10**12), cpu_seconds=1)
    with pytest.raises(ImageTooCostly, match=r"takes longer than 0\.3 s"):
        await sandbox.run(sum, range(10**12), wall_seconds=0.3)

    await assert_still_converts(sandbox, tmp_path)


async def test_a_child_cannot_exceed_its_memory_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(ImageTooCostly, match="more than 1536 MiB of memory"):
        await sandbox.run(bytearray, 2 * GIBIBYTE)

    await assert_still_converts(sandbox, tmp_path)


@pytest.mark.parametrize("by", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
async def test_a_crashed_child_fails_only_its_image(sandbox: Sandbox, tmp_path: Path, by: int) -> None:
    others = [sandbox.run(time.sleep, 0.2) for _ in range(4)]

    refused, *done = await asyncio.gather(sandbox.run(signal.raise_signal, by), *others, return_exceptions=True)

    assert isinstance(refused, ImageTooCostly)
    assert done == [None] * 4
    await assert_still_converts(sandbox, tmp_path)


async def test_a_child_ended_from_outside_does_not_refuse_the_image(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(DecoderLost):
        await sandbox.run(signal.raise_signal, signal.SIGTERM)

    await assert_still_converts(sandbox, tmp_path)


async def waiting(sandbox: Sandbox, pipe: Path) -> tuple[asyncio.Task[bytes], psutil.Process, int]:
    """Start a run whose child reads a pipe until the returned descriptor is closed."""
    fork_server = await sandbox.run(os.getppid)
    os.mkfifo(pipe)
    task = asyncio.create_task(sandbox.run(Path.read_bytes, pipe, wall_seconds=600.0))
    descriptor = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)  # returns once the child has opened it too
    [child] = psutil.Process(fork_server).children()
    return task, child, descriptor


async def test_a_lost_fork_server_is_replaced(sandbox: Sandbox, tmp_path: Path) -> None:
    task, child, descriptor = await waiting(sandbox, tmp_path / "pipe")
    fork_server = child.ppid()

    psutil.Process(fork_server).kill()

    assert not (await asyncio.to_thread(psutil.wait_procs, [child], 20))[1]
    second = await asyncio.to_thread(os.open, tmp_path / "pipe", os.O_WRONLY)  # another child retries
    os.write(second, b"done")
    os.close(second)
    os.close(descriptor)
    assert await task == b"done"
    assert await sandbox.run(os.getppid) != fork_server
    await assert_still_converts(sandbox, tmp_path)


async def test_a_child_killed_from_outside_does_not_affect_the_others(sandbox: Sandbox, tmp_path: Path) -> None:
    task, child, descriptor = await waiting(sandbox, tmp_path / "pipe")
    others = [asyncio.create_task(sandbox.run(os.getpid)) for _ in range(4)]

    child.kill()

    with pytest.raises(ImageTooCostly, match="ended by the system"):
        await task
    assert len(set(await asyncio.gather(*others))) == 4
    os.close(descriptor)


async def test_cancelling_kills_the_child(sandbox: Sandbox, tmp_path: Path) -> None:
    task, child, descriptor = await waiting(sandbox, tmp_path / "pipe")

    task.cancel()

    assert not (await asyncio.to_thread(psutil.wait_procs, [child], 20))[1]
    os.close(descriptor)


async def test_closing_kills_running_children(tmp_path: Path) -> None:
    sandbox = Sandbox(workers=1)
    task, child, descriptor = await waiting(sandbox, tmp_path / "pipe")

    await sandbox.close()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (await asyncio.to_thread(psutil.wait_procs, [child], 20))[1]
    os.close(descriptor)


async def test_at_most_one_child_per_worker_runs(tmp_path: Path) -> None:
    sandbox = Sandbox(workers=1)
    task, _, descriptor = await waiting(sandbox, tmp_path / "pipe")
    queued = asyncio.create_task(sandbox.run(os.getpid))

    assert not (await asyncio.wait({queued}, timeout=0.3))[0]
    os.close(descriptor)

    assert await task == b""
    assert await queued


async def test_a_child_has_no_environment_and_a_session_of_its_own(sandbox: Sandbox) -> None:
    assert await sandbox.run(os.getenv, "PATH") is None
    assert await sandbox.run(eval, "__import__('os').getsid(0) == __import__('os').getpid()") is True


async def test_a_child_imports_neither_the_main_module_nor_a_framework(sandbox: Sandbox, tmp_path: Path) -> None:
    """Also after a refusal, whose problem the child makes."""
    with pytest.raises(ImageUnreadable):
        await converted(sandbox, tmp_path, b"")
    imported = await sandbox.run(eval, "sorted(__import__('sys').modules)")
    assert "media.images.conversion" in imported
    assert {"pytest", "fastapi", "starlette", "sqlalchemy", "pydantic"}.isdisjoint(imported)


async def test_40_megapixels_with_transparency_fit_into_the_memory_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGBA", (8000, 5000), (255, 0, 0, 100)).save(content, "PNG", compress_level=1)
    files = await converted(sandbox, tmp_path, content.getvalue())
    assert files[0].height == 500

    content = io.BytesIO()
    Image.new("I;16", (8000, 5000), 40_000).save(content, "PNG", compress_level=1)
    files = await converted(sandbox, tmp_path, content.getvalue())
    assert files[0].height == 500


async def test_decompression_bombs_in_text_and_chunks_are_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    whole = picture()
    head, rest = whole[:33], whole[33:]
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20), 1))
    profile = chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(64 << 20), 1))
    many = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000), 9)) * 100
    for bomb in (text, many):
        with pytest.raises(ImageUnreadable):
            await converted(sandbox, tmp_path, head + bomb + rest)
    endless = b"\xff\xd8\xff\xc0\0\x11\x08\0\x01\0\x01\x03" + bytes(9) + b"\xff" * (10 << 20)
    with pytest.raises(ImageTooCostly):
        await converted(sandbox, tmp_path, endless, cpu_seconds=1)
    with suppress(ImageUnreadable):
        await converted(sandbox, tmp_path, head + profile + rest)
    await assert_still_converts(sandbox, tmp_path)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_flipped_bits_are_converted_or_refused_and_never_crash(
    sandbox: Sandbox, tmp_path: Path, fmt: str
) -> None:
    seed = random.Random(20_260_101)
    whole = picture(fmt, (40, 30))

    async def attempt(number: int) -> bool:
        damaged = bytearray(whole)
        for _ in range(seed.choice((1, 1, 2, 8))):
            damaged[seed.randrange(len(damaged))] ^= 1 << seed.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            files = await converted(sandbox, folder, bytes(damaged))
        except (ImageUnreadable, ImageFormatRefused, ImageTooManyPixels):
            return False
        with Image.open(files[0].path) as image:
            image.load()
        return True

    outcomes = await asyncio.gather(*(attempt(number) for number in range(150)))

    assert len(outcomes) == 150
    assert fmt == "GIF" or not all(outcomes)


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"no sample archive {SAMPLE.name}")
async def test_all_images_of_a_real_archive_are_converted_or_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    async def attempt(number: int, content: bytes) -> int:
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            return len(await converted(sandbox, folder, content))
        except (ImageUnreadable, ImageFormatRefused):
            return 0

    with zipfile.ZipFile(SAMPLE) as archive:
        names = [name for name in archive.namelist() if name.startswith("images/") and not name.endswith("/")]
        contents = [archive.read(name) for name in names]
    outcomes = await asyncio.gather(*(attempt(number, content) for number, content in enumerate(contents)))

    assert len(outcomes) > 100
    assert outcomes.count(3) >= 0.95 * len(outcomes)


SERVICE = """
import asyncio, os, signal, time
from media.images.sandbox import Sandbox

signal.signal(signal.SIGINT, signal.default_int_handler)  # background test runs ignore it

async def main():
    sandbox = Sandbox(workers=2)
    busy = asyncio.create_task(sandbox.run(time.sleep, 600.0, wall_seconds=600.0))
    await sandbox.run(os.getpid)
    print("busy", flush=True)
    await busy

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
async def test_no_child_outlives_the_service(tmp_path: Path, by: signal.Signals) -> None:
    program = tmp_path / "service.py"
    program.write_text(SERVICE)
    service = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert service.stdout is not None
        await asyncio.to_thread(service.stdout.readline)

        async def all_run() -> bool:
            return len(psutil.Process(service.pid).children(recursive=True)) >= 3

        async with asyncio.timeout(20):
            await until(all_run)
        processes = psutil.Process(service.pid).children(recursive=True)
        service.send_signal(by)
        await asyncio.to_thread(service.wait, 20)
        _, alive = await asyncio.to_thread(psutil.wait_procs, processes, 15)
        assert not [process.cmdline() for process in alive]
    finally:
        service.kill()
        service.wait()
        if service.stdout is not None:
            service.stdout.close()
