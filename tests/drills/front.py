"""The gateway in front of the apis while these are replaced, with several addresses of each service.

Between the services, a second proxy stands in for a Kubernetes Service: one address for all apis of a service.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from deploy.local import traefik
from deploy.local.cluster import HOST, SERVICES
from deploy.local.ports import free_port
from deploy.local.process import Process, start, stop, wait_ready
from deploy.local.running import ROOT
from tests.drills.waiting import within

DYNAMIC = ROOT / "deploy" / "gateway" / "dynamic.yml"


@dataclass
class Front:
    folder: Path
    port: int = field(default_factory=free_port)
    inner_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings with which services find each other, and users the gateway."""
        peers = {f"{service.upper()}_URL": f"http://{HOST}:{self.inner_port}/{service}" for service in SERVICES}
        return {"PUBLIC_URL": self.url, **peers}

    @asynccontextmanager
    async def open(self, ports: Mapping[str, Sequence[int]]) -> AsyncIterator[None]:
        """Serve until the block ends. ``ports`` lists each service's apis and one spare port for the next.

        It yields once the health checks know which ports are served.
        """
        # Port 1 stands for a service that the drill does not run.
        urls = {service: _urls(ports.get(service, [1])) for service in SERVICES}
        gateway = await traefik.prepare(
            self.folder,
            port=self.port,
            dynamic=DYNAMIC,
            env={
                **{f"{service.upper()}_URL": ",".join(its_urls) for service, its_urls in urls.items()},
                "RATE_LIMIT_AVERAGE": "0",
            },
        )
        between = self.folder / "between.yml"
        between.write_text(json.dumps(_between(ports)))
        inner = await traefik.prepare(self.folder, port=self.inner_port, dynamic=between, env={})
        async with _running(gateway), _running(inner), httpx.AsyncClient() as client:
            for url in (f"{self.url}/docs/openapi/{service}.json" for service in ports):
                await within(20, partial(_answers_always, client, url))
            yield


def _urls(ports: Sequence[int]) -> list[str]:
    return [f"http://{HOST}:{port}" for port in ports]


def _between(ports: Mapping[str, Sequence[int]]) -> dict[str, object]:
    """Return Traefik's dynamic configuration, with health checks as frequent as the gateway's."""
    return {
        "http": {
            "routers": {
                service: {"rule": f"PathPrefix(`/{service}/`)", "service": service, "middlewares": [service]}
                for service in ports
            },
            "middlewares": {service: {"stripPrefix": {"prefixes": [f"/{service}"]}} for service in ports},
            "services": {
                service: {
                    "loadBalancer": {
                        "servers": [{"url": url} for url in _urls(its_ports)],
                        "healthCheck": {"path": "/healthz/ready", "interval": "1s", "timeout": "5s"},
                    }
                }
                for service, its_ports in ports.items()
            },
        }
    }


@asynccontextmanager
async def _running(process: Process) -> AsyncIterator[None]:
    child = await start(process, output=asyncio.subprocess.DEVNULL)
    try:
        await wait_ready(process, child)
        yield
    finally:
        await stop(process, child)


async def _answers_always(client: httpx.AsyncClient, url: str) -> bool:
    """Return whether several requests in a row all reach a served port."""
    answers = [await client.get(url) for _ in range(9)]
    return all(answer.is_success for answer in answers)
