"""What runs in a decoding child around the work itself: limits, and an end when the service ends.

Imported by children: standard library only.
"""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
_MAX_FILE_SIZE = 64 << 20
_MAX_OPEN_FILES = 64


class DecodingProcess(ForkServerProcess):
    """A child that does not import the program's main module again.

    multiprocessing repeats that import in every child, for functions defined in it. Here it would load the whole
    service into each of them (60 MB and seconds), so for the moment of starting, main is an empty module.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


def run_within(memory: int, cpu_seconds: int, function: Callable[..., T], args: tuple[Any, ...]) -> T:
    """Calls the function in this process, once: the process is limited for good.

    ``memory`` is bytes of address space; a process that uses more than ``cpu_seconds`` is ended by the kernel. The
    limits are against costly images. Against a decoder that is taken over the boundary is the container: a process
    of the same user can always read what that user may.
    """
    # At once, also in the middle of a decoder's loop where Python's handlers do not run; nothing is to be tidied.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()  # a signal for the service's process group is not for work that it wants to finish first
    # The fork server is the parent; if it is killed, nobody would know of this process any more.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_service, daemon=True).start()
    os.environ.clear()  # credentials are not needed here
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_SIZE, _MAX_FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return function(*args)


def _end_with_service() -> None:
    service = multiprocessing.parent_process()
    if service is not None:
        connection.wait([service.sentinel])
    os._exit(1)
