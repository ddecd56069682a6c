"""A running cluster, as the journeys use it."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

from deploy.local.issuer import PUBLIC_SCOPES, load_issuer
from deploy.local.running import ROOT


@dataclass(frozen=True)
class Cluster:
    state: Path
    url: str
    environment: dict[str, str]

    def client(self, org: str | None = "acme", scope: str = PUBLIC_SCOPES) -> httpx.Client:
        headers = {}
        if org is not None:
            token = load_issuer(self.state / "issuer").issue("journey", org=org, scope=scope)
            headers["Authorization"] = f"Bearer {token}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``python -m deploy.local``."""
        return subprocess.run(
            [sys.executable, "-m", "deploy.local", *command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
