"""Runs decoders in child processes that can be killed, whatever the image does to them."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, ClassVar, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from media.images.child import DecodingProcess, prepare, run_within
from media.images.headers import Refused
from media.images.inspection import FIELD, ImageTooCostly, as_problem
from shared.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

# The fork server was lost, or somebody else ended the child: nothing that the image has done.
_LOST_WITH_FORK_SERVER = 255
_ENDED_BY_OTHERS = frozenset({_LOST_WITH_FORK_SERVER, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})


class DecodersLost(RuntimeError):
    """Children ended twice in a row for reasons that are not the image's: the job should be tried again later."""


class _Context(ForkServerContext):
    Process: ClassVar[type[ForkServerProcess]] = DecodingProcess


class Sandbox:
    """A pool of children that starts with its first use and ends when it was idle for a while.

    Children come from a fork server, never from a fork of this process, whose threads and event loop would be
    copied in the middle of what they do. Use it from one event loop.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        memory: int = 1536 << 20,
        images_per_child: int = 100,
        idle_seconds: float = 60.0,
    ) -> None:
        """``workers`` defaults to this machine's processors; ``memory`` is bytes of address space per child."""
        self._workers = workers or len(os.sched_getaffinity(0))
        self._memory = memory
        self._images_per_child = images_per_child
        self._idle_seconds = idle_seconds
        self._pool: ProcessPool | None = None
        self._pool_lock = threading.Lock()
        self._running = 0
        self._futures: set[ProcessFuture[Any]] = set()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_end: asyncio.Future[None] | None = None

    async def run(
        self, function: Callable[..., T], *args: Any, wall_seconds: float = 30.0, cpu_seconds: int = 20
    ) -> T:
        """Awaits ``function(*args)`` in a child; function, arguments and result must pickle.

        Time in the queue does not count. Raises the problem for a ``Refused`` of the function, ``ImageTooCostly``
        when the child had to be killed or died, ``DecodersLost`` when that was not the image's doing. Other
        exceptions of the function come through. Cancelling kills the child.
        """
        self._running += 1
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        try:
            try:
                return await self._attempt(function, args, wall_seconds, cpu_seconds)
            except DecodersLost as lost:
                log.warning("sandbox.lost", reason=str(lost))
                return await self._attempt(function, args, wall_seconds, cpu_seconds)
        except ImageTooCostly as refusal:
            log.warning("sandbox.killed", reason=refusal.detail)
            raise
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle_timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._end_idle_pool)

    async def close(self) -> None:
        """Ends all children; what still runs is cancelled."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for future in tuple(self._futures):
            future.cancel()  # type: ignore[no-untyped-call]
        await asyncio.to_thread(self._end_pool)

    async def _attempt(
        self, function: Callable[..., T], args: tuple[Any, ...], wall_seconds: float, cpu_seconds: int
    ) -> T:
        try:
            # In a thread: the first use starts the fork server and waits for its first child.
            future = await asyncio.to_thread(self._schedule, function, args, wall_seconds, cpu_seconds)
            return await asyncio.wrap_future(future)
        except Refused as refused:
            raise as_problem(refused) from None
        except BrokenProcessPool as error:
            raise DecodersLost(f"The pool of decoders broke: {error}") from error
        except ProcessExpired as ended:
            if ended.exitcode in _ENDED_BY_OTHERS:
                raise DecodersLost(f"The decoder was ended from outside (exit code {ended.exitcode}).") from ended
            reason = _reason_of_death(ended.exitcode, cpu_seconds)
        except MemoryError:
            reason = f"needs more than {self._memory >> 20} MiB of memory"
        except TimeoutError:
            reason = f"takes longer than {wall_seconds:g} s"
        raise ImageTooCostly(
            f"Decoding the image {reason}. Open it in an image editor, save it anew and upload that.", field=FIELD
        )

    def _schedule(
        self, function: Callable[..., T], args: tuple[Any, ...], wall_seconds: float, cpu_seconds: int
    ) -> ProcessFuture[T]:
        with self._pool_lock:
            if self._pool is not None and not self._pool.active:
                self._stop_pool()
            if self._pool is None:
                context = _Context()
                context.set_forkserver_preload(["pebble", "media.images.child", "media.images.conversion"])
                self._pool = ProcessPool(
                    max_workers=self._workers,
                    max_tasks=self._images_per_child,
                    initializer=prepare,
                    initargs=(self._memory,),
                    context=context,
                )
            future: ProcessFuture[T] = self._pool.schedule(
                run_within, args=(cpu_seconds, function, args), timeout=wall_seconds
            )
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def _end_idle_pool(self) -> None:
        self._idle_end = asyncio.get_running_loop().run_in_executor(None, self._end_pool_if_idle)

    def _end_pool_if_idle(self) -> None:
        with self._pool_lock:
            if self._running == 0:  # a run that began meanwhile has counted itself and waits for the lock
                self._stop_pool()

    def _end_pool(self) -> None:
        with self._pool_lock:
            self._stop_pool()

    def _stop_pool(self) -> None:
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None


def _reason_of_death(exitcode: int, cpu_seconds: int) -> str:
    if exitcode == -signal.SIGXCPU:
        return f"takes more than {cpu_seconds} s of processor time"
    if exitcode == -signal.SIGKILL:
        return "was ended by the system, most likely for its use of memory"
    if exitcode < 0:
        return f"crashed the decoder ({signal.Signals(-exitcode).name})"
    return f"ended the decoder (exit code {exitcode})"
