"""Memory and processor time of processes."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Use:
    """Memory in bytes: ``rss`` counts shared pages for each process, ``pss`` (None if the kernel hides it) once.

    ``cpu`` is in per cent of one core.
    """

    rss: int
    pss: int | None
    cpu: float


def measure(families: Sequence[Sequence[psutil.Process]], *, seconds: float) -> list[Use]:
    """Measure each family of processes as a whole, during the same seconds."""
    before = [[_cpu_seconds(member) for member in family] for family in families]
    started_at = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - started_at
    uses = []
    for family, first in zip(families, before, strict=True):
        spent = sum(max(0.0, _cpu_seconds(member) - cpu) for member, cpu in zip(family, first, strict=True))
        pss = [_pss(member) for member in family]
        known = [each for each in pss if each is not None]
        uses.append(
            Use(
                rss=sum(_rss(member) for member in family),
                pss=sum(known) if len(known) == len(pss) else None,
                cpu=100 * spent / passed,
            )
        )
    return uses


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return the process and all its descendants."""
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


def _cpu_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _rss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _pss(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return None if process.is_running() else 0
