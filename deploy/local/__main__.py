"""Commands of the local cluster: ``python -m deploy.local up | down | ps | logs | token | messages | …``."""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TextIO

import psutil

from deploy.local.issuer import DEVELOPER_LIFETIME, PUBLIC_SCOPES, load_issuer
from deploy.local.running import ROOT, AlreadyRunning, only_one, read_running, running_pid, state_folder
from deploy.local.supervisor import MEBIBYTE, process_of, read_records, stop_leftovers
from deploy.local.usage import Use, family, measure

NOTHING_RUNS = "The cluster of this checkout is not running: `make up` starts it."


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local", description="The local cluster of this checkout."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("up", help="start the cluster and stay in the foreground")
    verb.add_argument("--detach", action="store_true", help="start in the background, wait until it is ready")
    verbs.add_parser("down", help="stop the cluster, and wait for its end")
    verbs.add_parser("ps", help="show the processes, their memory and CPU")
    verb = verbs.add_parser("logs", help="show the end of the log")
    verb.add_argument("names", nargs="*", help="only these processes, such as events.api or cluster")
    verb.add_argument("-f", "--follow", action="store_true", help="wait for more lines")
    verb.add_argument("-n", "--lines", type=int, default=200)
    verb = verbs.add_parser("token", help="print a developer token; the cluster need not run")
    verb.add_argument("--org", required=True, help="the organizer, for the claim `org`")
    verb.add_argument("--scope", default=PUBLIC_SCOPES)
    verb.add_argument("--sub", default="developer")
    verb.add_argument("--lifetime", type=float, default=DEVELOPER_LIFETIME, help="seconds")
    verb = verbs.add_parser("messages", help="inspect and repair the outbox and dead letters of a service")
    verb.add_argument("service")
    verb.add_argument(
        "command", nargs=argparse.REMAINDER, help="a command of shared.messaging, such as `outbox status`"
    )
    verbs.add_parser("clean-state", help="delete all data, keys and logs of the cluster")
    verbs.add_parser("demo", help="import, sell and export an event, step by step", add_help=False)
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.verb != "demo":
        parser.error(f"unknown arguments: {' '.join(rest)}")

    state = state_folder()
    try:
        match arguments.verb:
            case "up":
                return up_in_background(state) if arguments.detach else up(state)
            case "down":
                return down(state)
            case "ps":
                return ps(state)
            case "logs":
                return logs(state, arguments.names, lines=arguments.lines, follow=arguments.follow)
            case "token":
                issuer = load_issuer(state / "issuer")
                lifetime: float = arguments.lifetime
                print(issuer.issue(arguments.sub, org=arguments.org, scope=arguments.scope, lifetime=lifetime))
                return 0
            case "messages":
                return messages(state, arguments.service, arguments.command)
            case "clean-state":
                return clean_state(state)
            case _:
                return int(import_module("deploy.local.demo").main(rest))
    except AlreadyRunning as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `… logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# -------------------- up


def up(state: Path) -> int:
    # It imports the clients of all servers, which takes a second; the other commands do not need them.
    from deploy.local import cluster  # noqa: PLC0415

    return asyncio.run(cluster.up(state))


def up_in_background(state: Path) -> int:
    if (pid := running_pid(state)) is not None:
        raise AlreadyRunning(pid)
    log, errors = state / "logs" / "cluster.log", state / "logs" / "start.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    with errors.open("w") as error_file, log.open(errors="replace") as lines:
        lines.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            (sys.executable, "-m", "deploy.local", "up"),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=error_file,
            start_new_session=True,
        )
        try:
            while child.poll() is None and not _is_ready(state, child.pid):
                _print_new_lines(lines)
                time.sleep(0.1)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
        _print_new_lines(lines)
    if child.returncode is not None:
        print(errors.read_text(), end="", file=sys.stderr)
        return 1
    print(f"runs in the background as process {child.pid}; logs: {log}; `make down` stops it", flush=True)
    return 0


def _is_ready(state: Path, pid: int) -> bool:
    running = read_running(state)
    return running is not None and running.pid == pid and running.ready


def _print_new_lines(log: TextIO) -> None:
    in_failure = False  # a failure's reason may have several lines
    for line in log:
        in_failure = line.startswith("cluster | ") or (in_failure and line.startswith("    "))
        if in_failure:
            print(line.removeprefix("cluster | "), end="", flush=True)


# -------------------- down, clean-state


def down(state: Path) -> int:
    pid = running_pid(state)
    if pid is None:
        leftovers = stop_leftovers(state / "run")
        print(
            f"Stopped the processes that a killed run left: {', '.join(leftovers)}." if leftovers else NOTHING_RUNS
        )
        return 0
    started_at = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not _ended(state, pid, within=60.0):
        print("The cluster did not stop within 60 s: killing its processes.", file=sys.stderr)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not _ended(state, pid, within=15.0):
            print(f"Process {pid} did not end: kill it, then run `make down` again.", file=sys.stderr)
            return 1
    print(f"Stopped after {time.monotonic() - started_at:.1f} s.")
    return 0


def _ended(state: Path, pid: int, *, within: float) -> bool:
    deadline = time.monotonic() + within
    while running_pid(state) == pid:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def clean_state(state: Path) -> int:
    with only_one(state):
        stop_leftovers(state / "run")
        for path in state.iterdir():
            if path.name == "cluster.lock":
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    print(f"deleted everything in {state}")
    return 0


# -------------------- messages


def messages(state: Path, service: str, command: Sequence[str]) -> int:
    """Run the operator's command with the settings of the service's own processes."""
    from deploy.local import cluster  # noqa: PLC0415 - as for `up`

    running = read_running(state)
    if running is None:
        print(NOTHING_RUNS, file=sys.stderr)
        return 1
    if service not in cluster.SERVICES:
        print(f"Unknown service {service}: use one of {', '.join(cluster.SERVICES)}.", file=sys.stderr)
        return 2
    environment = cluster.settings_of_running(state, running, service)
    with contextlib.suppress(KeyboardInterrupt):
        return subprocess.run(
            (sys.executable, "-m", "shared.messaging", *command), env=environment, cwd=ROOT
        ).returncode
    return 130


# -------------------- ps, logs


def ps(state: Path) -> int:
    pid = running_pid(state)
    if pid is None:
        print(NOTHING_RUNS)
        return 1
    running = read_running(state)
    kept = [(record, process) for record in read_records(state / "run") if (process := process_of(record))]
    # The supervisor is the parent of all others, so its own family is only itself.
    families = [[psutil.Process(pid)], *(family(process) for _, process in kept)]
    uses = measure(families, seconds=2.0)
    rows = [("cluster", pid, "ready" if running and running.ready else "starting", 0)]
    rows += [(record.name, record.pid, record.state, record.restarts) for record, _ in kept]

    print(
        f"{'name':<20} {'pid':>8}  {'state':<9} {'uptime':>9} {'restarts':>8}"
        f" {'RSS MB':>8} {'PSS MB':>8} {'CPU %':>6}"
    )
    for (name, number, phase, restarts), members, use in zip(rows, families, uses, strict=True):
        age = _age(members[0]) if members else ""
        print(f"{name:<20} {number:>8}  {phase:<9} {age:>9} {restarts:>8} {_use(use)}")
    pss = [use.pss for use in uses if use.pss is not None]
    total = Use(
        rss=sum(use.rss for use in uses),
        pss=sum(pss) if len(pss) == len(uses) else None,
        cpu=sum(use.cpu for use in uses),
    )
    count = sum(len(members) for members in families)
    print(f"{'all':<20} {count:>8}  {'processes':<9} {'':>9} {sum(row[3] for row in rows):>8} {_use(total)}")
    return 0


def _use(use: Use) -> str:
    pss = "?" if use.pss is None else f"{use.pss / MEBIBYTE:.0f}"
    return f"{use.rss / MEBIBYTE:>8.0f} {pss:>8} {use.cpu:>6.1f}"


def _age(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return str(timedelta(seconds=int(time.time() - process.create_time())))
    return ""


def logs(state: Path, names: Sequence[str], *, lines: int, follow: bool) -> int:
    path = state / "logs" / "cluster.log"
    if not path.exists():
        print(f"No log yet: {path}. `make up` starts the cluster.", file=sys.stderr)
        return 1
    wanted = tuple(f"{name} | " for name in names) or ("",)
    with path.open(errors="replace") as file:
        for line in deque((line for line in file if line.startswith(wanted)), maxlen=lines):
            print(line, end="")
        sys.stdout.flush()
        if follow:
            for line in _further_lines(path, file):
                if line.startswith(wanted):
                    print(line, end="", flush=True)
    return 0


def _further_lines(path: Path, file: TextIO) -> Iterator[str]:
    """Yield lines as they are written, across rotations of the file. It never ends."""
    rest = ""
    while True:
        if not (text := file.readline()):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    with path.open(errors="replace") as newer:
                        yield from _further_lines(path, newer)
            time.sleep(0.2)
            continue
        rest += text
        if rest.endswith("\n"):
            yield rest
            rest = ""


if __name__ == "__main__":
    sys.exit(main())
