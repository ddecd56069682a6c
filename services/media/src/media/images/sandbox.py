"""Runs decoders in child processes that can be killed, whatever the image does to them."""

import asyncio
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, ClassVar, TypeVar

from pebble import ProcessExpired, ProcessFuture, concurrent

from media.images.child import DecodingProcess, run_within
from media.images.headers import Refused
from media.images.inspection import FIELD, ImageTooCostly, as_problem
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

# The fork server was lost, or somebody else ended the child: nothing that the image has done.
_LOST_WITH_FORK_SERVER = 255
_ENDED_BY_OTHERS = frozenset({_LOST_WITH_FORK_SERVER, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})

_PAUSE_BEFORE_RETRY = 0.2


class DecoderLost(RuntimeError):
    """Two children in a row ended for reasons that are not the image's: the job should be tried again later."""


class _Context(ForkServerContext):
    Process: ClassVar[type[ForkServerProcess]] = DecodingProcess


class Sandbox:
    """Gives each image a child of its own; so many at a time as there are ``workers``. Use it from one event loop.

    Children come from a fork server that has Pillow loaded, a few milliseconds each: never from a fork of this
    process, whose threads and event loop would be copied in the middle of what they do. Not from a pool either:
    a child that dies while it takes work from the channel that a pool's children share stops all the others. The
    fork server starts with the first image; neither it nor a child outlives this process.
    """

    def __init__(self, *, workers: int | None = None, memory: int = 1536 << 20) -> None:
        """``workers`` defaults to this machine's processors; ``memory`` is bytes of address space per child."""
        self._free_workers = asyncio.Semaphore(workers or len(os.sched_getaffinity(0)))
        self._memory = memory
        self._futures: set[ProcessFuture[Any]] = set()
        self._context = _Context()
        self._context.set_forkserver_preload(["pebble", "media.images.child", "media.images.conversion"])

    async def run(
        self, function: Callable[..., T], *args: Any, wall_seconds: float = 30.0, cpu_seconds: int = 20
    ) -> T:
        """Awaits ``function(*args)`` in a child; function, arguments and result must pickle.

        Time in the queue does not count. Raises the problem for a ``Refused`` of the function, ``ImageTooCostly``
        when the child had to be killed or died, ``DecoderLost`` when that was not the image's doing. Other
        exceptions of the function come through. Cancelling kills the child.
        """
        async with self._free_workers:
            try:
                return await self._attempt(function, args, wall_seconds, cpu_seconds)
            except DecoderLost as lost:
                log.warning("decoder.lost", reason=str(lost))
                await asyncio.sleep(_PAUSE_BEFORE_RETRY)  # a fork server that is just ending still refuses
                return await self._attempt(function, args, wall_seconds, cpu_seconds)

    async def close(self) -> None:
        """Kills the children that still run, whose callers get a ``CancelledError``."""
        for future in tuple(self._futures):
            future.cancel()  # type: ignore[no-untyped-call]

    async def _attempt(
        self, function: Callable[..., T], args: tuple[Any, ...], wall_seconds: float, cpu_seconds: int
    ) -> T:
        # pebble's annotations call the parameter mp_context, but it reads and documents context.
        limited = concurrent.process(timeout=wall_seconds, context=self._context)(  # type: ignore[call-overload]
            run_within
        )
        try:
            # In a thread: the first use starts the fork server and waits for it.
            future: ProcessFuture[T] = await asyncio.to_thread(limited, self._memory, cpu_seconds, function, args)
        except (OSError, EOFError) as error:
            raise DecoderLost(f"No child could be started ({type(error).__name__}: {error}).") from error
        self._futures.add(future)
        try:
            return await asyncio.wrap_future(future)
        except Refused as refused:
            raise as_problem(refused) from None
        except ProcessExpired as ended:
            if ended.exitcode in _ENDED_BY_OTHERS:
                raise DecoderLost(f"The child was ended from outside (exit code {ended.exitcode}).") from ended
            reason = _reason_of_death(ended.exitcode, cpu_seconds)
        except MemoryError:
            reason = f"needs more than {self._memory >> 20} MiB of memory"
        except TimeoutError:
            reason = f"takes longer than {wall_seconds:g} s"
        finally:
            self._futures.discard(future)
        log.warning("decoder.killed", reason=reason)
        raise ImageTooCostly(
            f"Decoding the image {reason}. Open it in an image editor, save it anew and upload that.", field=FIELD
        )


def _reason_of_death(exitcode: int, cpu_seconds: int) -> str:
    if exitcode == -signal.SIGXCPU:
        return f"takes more than {cpu_seconds} s of processor time"
    if exitcode == -signal.SIGKILL:
        return "was ended by the system, most likely for its use of memory"
    if exitcode < 0:
        return f"crashed the decoder ({signal.Signals(-exitcode).name})"
    return f"ended the decoder (exit code {exitcode})"
