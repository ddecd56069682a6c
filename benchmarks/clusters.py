"""A separate cluster for a benchmark, in a temporary state folder."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.ports import free_port
from deploy.local.running import ROOT, read_running
from tests.cluster import Cluster


@contextmanager
def fresh_cluster() -> Iterator[tuple[Cluster, float]]:
    """Yield the cluster, and the seconds from a cold start until it reported ready."""
    with tempfile.TemporaryDirectory(prefix="rostrum-bench-") as folder:
        state = Path(folder)
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "RABBITMQ_URL")},
            "ROSTRUM_STATE": str(state),
            "GATEWAY_PORT": str(free_port()),
            "RATE_LIMIT_AVERAGE": "100000",
            "RATE_LIMIT_BURST": "100000",
        }
        command = [sys.executable, "-m", "deploy.local"]
        started = subprocess.run(
            [*command, "up", "--detach"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        print(started.stdout)
        ready = re.search(r"^ready after ([\d.]+) s", started.stdout, re.MULTILINE)
        try:
            running = read_running(state)
            assert running is not None
            assert ready is not None
            yield Cluster(state, running.gateway_url, environment), float(ready[1])
        finally:
            subprocess.run([*command, "down"], cwd=ROOT, env=environment, check=True)
