"""Prometheus beside the local cluster (``python -m deploy.observability.prometheus``), and for tests.

PyPI has no Prometheus, so Debian's package is fetched and unpacked in the checkout, without root. It needs the C
library only.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from deploy.local.ports import free_port
from deploy.local.running import ROOT, read_running, state_folder

FOLDER = Path(__file__).resolve().parent
TOOLS = ROOT / ".state" / "tools" / "prometheus"
PORT = 9090


class PrometheusMissing(Exception):
    """Prometheus is unavailable; the message says why in one line."""


def program(name: str) -> Path:
    """Return ``prometheus`` or ``promtool``: the system's, or fetched once. Raise ``PrometheusMissing``."""
    if installed := shutil.which(name):
        return Path(installed)
    if not (TOOLS / name).is_file():
        _fetch()
    return TOOLS / name


def _fetch() -> None:
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise PrometheusMissing(
                f"Prometheus is missing, and so is {command} to fetch Debian's package: install Prometheus."
            )
    TOOLS.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS.parent) as name:
        folder = Path(name)
        # With private lists: the system's may be missing or old, and changing them needs root.
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        (folder / "apt.conf").write_text(_APT.format(folder=folder))
        _run(folder, "apt-get", "update")
        _run(folder, "apt-get", "download", "prometheus")
        [package] = folder.glob("prometheus_*.deb")
        _run(folder, "dpkg-deb", "--extract", str(package), "root")
        # Atomic, as another process may do the same.
        with suppress(OSError):
            (folder / "root" / "usr" / "bin").rename(TOOLS)


_APT = """\
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Debug::NoLocking "true";
#clear APT::Update;
#clear DPkg;
"""


def _run(folder: Path, *words: str) -> None:
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise PrometheusMissing(f"Prometheus is missing, and `{' '.join(words[:2])}` failed: {why}")


def local_configuration(ports: Mapping[str, int], *, interval: str = "15s") -> dict[str, Any]:
    """Return ``prometheus.yml`` with the addresses of the local cluster, whose servers export no metrics."""
    configuration: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    configuration["rule_files"] = [str(FOLDER / "rules.yml")]
    [ours] = [job for job in configuration["scrape_configs"] if job["job_name"] == "rostrum"]
    for group in ours["static_configs"]:
        name = f"{group['labels']['service']}.{group['labels']['role']}"
        group["targets"] = [f"127.0.0.1:{ports[name]}"]
    configuration["scrape_configs"] = [ours]
    return configuration


def command(configuration: Path, data: Path, port: int) -> tuple[str, ...]:
    return (
        str(program("prometheus")),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )


def main() -> int:
    running = read_running(state_folder())
    if running is None or not running.ready:
        print("The cluster of this checkout is not running: `make up ARGS=--detach` starts it.", file=sys.stderr)
        return 1
    folder = state_folder() / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(local_configuration(running.ports)))
    port = free_port(PORT)
    try:
        words = command(configuration, folder / "data", port)
    except PrometheusMissing as reason:
        print(reason, file=sys.stderr)
        return 1
    print(f"Prometheus: http://127.0.0.1:{port}/alerts, Ctrl-C stops it", flush=True)
    try:
        return subprocess.run(words, check=False).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
