"""One cluster per checkout: its lock, and what it publishes for other commands."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.local.issuer import write_secret

ROOT = Path(__file__).resolve().parents[2]


def state_folder() -> Path:
    return Path(os.environ.get("ROSTRUM_STATE", ROOT / ".state" / "local")).absolute()


class AlreadyRunning(Exception):
    def __init__(self, pid: int | None) -> None:
        super().__init__(f"The cluster of this checkout is already running as process {pid}: `make down` stops it.")


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the checkout's lock; raise ``AlreadyRunning``. The kernel releases it however the process ends."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (state / "cluster.lock").open("a+") as file:
        for pause in (0.2, 0.2, 0.2, 0.0):  # `running_pid` holds the lock for a moment
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if (pid := running_pid(state)) is not None or not pause:
                    raise AlreadyRunning(pid) from None
                time.sleep(pause)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def running_pid(state: Path) -> int | None:
    """Return the process id of this checkout's running cluster."""
    try:
        with (state / "cluster.lock").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read()
                return int(text) if text else None
    except FileNotFoundError:
        pass
    return None


@dataclass(frozen=True)
class Running:
    """What a running cluster publishes for other commands."""

    pid: int
    ready: bool
    gateway_url: str
    ports: dict[str, int]


def publish_running(state: Path, running: Running) -> None:
    write_secret(state / "cluster.json", json.dumps(asdict(running), indent=2))


def read_running(state: Path) -> Running | None:
    try:
        running = Running(**json.loads((state / "cluster.json").read_text()))
    except FileNotFoundError:
        return None
    return running if running.pid == running_pid(state) else None


def remove_running(state: Path) -> None:
    (state / "cluster.json").unlink(missing_ok=True)
