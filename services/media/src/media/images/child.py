"""What a decoding child does around its work: set limits, and end when the service ends.

Children import it: standard library only.
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
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Args = TypeVarTuple("Args")

_PR_SET_PDEATHSIG = 1
_MAX_FILE_SIZE = 64 << 20
_MAX_OPEN_FILES = 64


class DecodingProcess(ForkServerProcess):
    """A child that does not import the program's main module.

    multiprocessing imports it in every child, for functions defined there, and would so load the whole service.
    While the child starts, main is an empty module.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


def run_within(memory: int, cpu_seconds: int, function: Callable[[*Args], T], args: tuple[*Args]) -> T:
    """Limit this process for good, then call the function.

    ``memory`` is bytes of address space; the kernel ends a process that uses more than ``cpu_seconds``. The limits
    guard against costly images. Against an exploited decoder the boundary is the container, as a process may read
    whatever its user may.
    """
    # End at once, even inside a decoder's loop where Python's handlers do not run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()  # signals to the service's process group must not interrupt work that it finishes first
    # The fork server is the parent; without it nothing would end this process.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_service, daemon=True).start()
    os.environ.clear()  # the decoder needs no credentials
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
