"""Run decoders in child processes that can be killed whatever the image does to them."""

import asyncio
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, ClassVar, TypeVar, TypeVarTuple

from pebble import ProcessExpired, ProcessFuture, concurrent

from media.images.child import DecodingProcess, run_within
from media.images.headers import ImageTooCostly
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")
Args = TypeVarTuple("Args")

# Not the image's doing: the fork server was lost, or the child was ended from outside.
_FORK_SERVER_LOST = 255
_ENDED_FROM_OUTSIDE = frozenset({_FORK_SERVER_LOST, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})

_PAUSE_BEFORE_RETRY = 0.2


class DecoderLost(RuntimeError):
    """Two children in a row ended for reasons outside the image: retry the job later."""


class _Context(ForkServerContext):
    Process: ClassVar[type[ForkServerProcess]] = DecodingProcess


class Sandbox:
    """Give each image a child of its own, at most ``workers`` at a time. Use it from one event loop.

    Children are forks of a fork server that has loaded Pillow; a fork of this process would copy its threads and
    event loop in mid-work. A pool would not do: a child that dies while reading from the pool's shared channel
    blocks all others. The fork server starts with the first image; nothing outlives this process.
    """

    def __init__(self, *, workers: int | None = None, memory: int = 1536 << 20) -> None:
        """``workers`` defaults to the number of processors; ``memory`` is bytes of address space per child."""
        self._free_workers = asyncio.Semaphore(workers or len(os.sched_getaffinity(0)))
        self._memory = memory
        self._futures: set[ProcessFuture[Any]] = set()
        self._context = _Context()
        self._context.set_forkserver_preload(["pebble", "media.images.child", "media.images.conversion"])

    async def run(
        self, function: Callable[[*Args], T], *args: *Args, wall_seconds: float = 30.0, cpu_seconds: int = 20
    ) -> T:
        """Run ``function(*args)`` in a child; function, arguments, result and exceptions must pickle.

        ``wall_seconds`` exclude time in the queue. Raises what the function raises, ``ImageTooCostly`` when the
        child was killed or died, and ``DecoderLost`` when the image did not cause that. Cancelling kills the child.
        """
        async with self._free_workers:
            try:
                return await self._attempt(function, args, wall_seconds, cpu_seconds)
            except DecoderLost as lost:
                log.warning("decoder.lost", reason=str(lost))
                await asyncio.sleep(_PAUSE_BEFORE_RETRY)  # an ending fork server still refuses
                return await self._attempt(function, args, wall_seconds, cpu_seconds)

    async def close(self) -> None:
        """Kill the running children, whose callers get a ``CancelledError``."""
        for future in tuple(self._futures):
            future.cancel()  # type: ignore[no-untyped-call]

    async def _attempt(
        self, function: Callable[[*Args], T], args: tuple[*Args], wall_seconds: float, cpu_seconds: int
    ) -> T:
        # pebble annotates the parameter as mp_context, but reads and documents context.
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
        except ProcessExpired as ended:
            if ended.exitcode in _ENDED_FROM_OUTSIDE:
                raise DecoderLost(f"The child was ended from outside (exit code {ended.exitcode}).") from ended
            reason = _reason_of_death(ended.exitcode, cpu_seconds)
        except MemoryError:
            reason = f"needs more than {self._memory >> 20} MiB of memory"
        except TimeoutError:
            reason = f"takes longer than {wall_seconds:g} s"
        finally:
            self._futures.discard(future)
        log.warning("decoder.killed", reason=reason)
        raise ImageTooCostly(f"Decoding the image {reason}. Save it again in an image editor and upload that.")


def _reason_of_death(exitcode: int, cpu_seconds: int) -> str:
    if exitcode == -signal.SIGXCPU:
        return f"takes more than {cpu_seconds} s of processor time"
    if exitcode == -signal.SIGKILL:
        return "was ended by the system, most likely for its memory use"
    if exitcode < 0:
        return f"crashed the decoder ({signal.Signals(-exitcode).name})"
    return f"ended the decoder (exit code {exitcode})"
