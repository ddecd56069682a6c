"""What docker-compose.yml promises, read from the file itself: no Docker is needed."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from deploy.local import traefik
from deploy.local.cluster import SERVICES
from deploy.local.running import ROOT
from events.settings import EventsSettings
from exports.settings import ExportsSettings
from media.settings import MediaSettings
from shared.settings import Settings
from tickets.settings import TicketsSettings

SETTINGS: dict[str, type[Settings]] = {
    "events": EventsSettings,
    "tickets": TicketsSettings,
    "media": MediaSettings,
    "exports": ExportsSettings,
}
ROLES = [(service, role) for service, roles in SERVICES.items() for role in roles]
TEXT = (ROOT / "docker-compose.yml").read_text()
EXAMPLE = (ROOT / "deploy" / "compose" / "env.example").read_text()
PROJECT: dict[str, Any] = yaml.safe_load(TEXT)
CONTAINERS: dict[str, dict[str, Any]] = PROJECT["services"]
ONCE = {name for name in CONTAINERS if name.endswith(("-migrations", "-bucket")) or name == "provisioning"}


def seconds(duration: str) -> int:
    assert duration.endswith("s"), duration
    return int(duration[:-1])


@pytest.mark.parametrize(("service", "role"), ROLES)
def test_each_role_of_the_local_cluster_is_a_container_that_waits_for_its_migration(
    service: str, role: str
) -> None:
    container = CONTAINERS[f"{service}-{role}"]
    assert container["command"] == [f"{service}.{role}"]
    assert container["image"].startswith(f"rostrum-{service}:")
    assert container["depends_on"][f"{service}-migrations"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize(("service", "role"), ROLES)
def test_each_variable_of_a_role_is_one_of_its_settings(service: str, role: str) -> None:
    known = {name.upper() for name in SETTINGS[service].model_fields}
    assert set(CONTAINERS[f"{service}-{role}"]["environment"]) <= known


@pytest.mark.parametrize(("service", "role"), ROLES)
def test_a_role_may_take_its_time_to_stop(service: str, role: str) -> None:
    wanted = 60 if role == "worker" else SETTINGS[service].model_fields["shutdown_grace"].default
    assert seconds(CONTAINERS[f"{service}-{role}"]["stop_grace_period"]) > wanted


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_container_has_rights_or_memory_without_end(name: str) -> None:
    container = CONTAINERS[name]
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert set(container["deploy"]["resources"]["limits"]) == {"memory", "pids"}
    assert container["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", [name for name in CONTAINERS if CONTAINERS[name]["image"].startswith("rostrum-")])
def test_our_containers_can_write_to_tmp_only(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    writable = [volume for volume in container.get("volumes", []) if not volume.endswith((":ro", ":ro,z"))]
    has_tmp = [place for place in (*container["tmpfs"], *writable) if re.search(r"(^|:)/tmp(:|$)", place)]
    assert len(has_tmp) == 1
    if name != "issuer":
        assert set(writable) <= set(has_tmp)


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_runs_for_ever_is_checked_and_started_again(name: str) -> None:
    container = CONTAINERS[name]
    if name in ONCE:
        assert (container["restart"], container["healthcheck"]) == ("no", {"disable": True})
        return
    assert container["restart"] == "unless-stopped"
    assert "start_interval" in container["healthcheck"]
    has_image_of_ours = container["image"].startswith("rostrum-") and name != "issuer"
    assert has_image_of_ours or container["healthcheck"]["test"], "the image of a role brings the test"


def test_only_the_gateway_and_grafana_have_a_port_and_a_way_out() -> None:
    assert [name for name, container in CONTAINERS.items() if "ports" in container] == ["gateway", "grafana"]
    outside = [name for name, network in PROJECT["networks"].items() if not network.get("internal")]
    assert outside == ["edge"]
    assert [name for name, container in CONTAINERS.items() if "edge" in container.get("networks", [])] == [
        "gateway",
        "grafana",
    ]


@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_the_gateway_cannot_reach(server: str) -> None:
    assert not set(CONTAINERS["gateway"]["networks"]) & set(CONTAINERS[server]["networks"])


@pytest.mark.parametrize(("service", "role"), ROLES)
def test_a_role_knows_no_other_services_secrets(service: str, role: str) -> None:
    secrets = {name for name in re.findall(r"^(\w+)=generated$", EXAMPLE, re.MULTILINE) if "RABBITMQ" not in name}
    own = {name for name in secrets if name.startswith(service.upper())}
    told = " ".join(str(value) for value in CONTAINERS[f"{service}-{role}"]["environment"].values())
    assert {name for name in secrets if f"${{{name}" in told} <= own
    assert [volume for volume in CONTAINERS[f"{service}-{role}"]["volumes"] if "token" in volume] == [
        f"{service}-token:/run/token:ro"
    ]


def test_the_connections_that_roles_may_open_are_fewer_than_the_database_has() -> None:
    command = " ".join(CONTAINERS["postgres"]["command"])
    most = int(re.findall(r"max_connections=(\d+)", command)[0])
    pools = sum(
        int(CONTAINERS[f"{service}-{role}"]["environment"]["DATABASE_POOL_SIZE"]) for service, role in ROLES
    )
    # A role has a connection or two beside its pool, and tickets' api a second pool; some are left for operators.
    assert 2 * pools + 3 * len(ROLES) < most - 20


def test_the_example_names_each_variable_and_no_other() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", TEXT))
    named = set(re.findall(r"^#?([A-Z0-9_]+)=", EXAMPLE, re.MULTILINE))
    assert used - named == {"ROSTRUM_REVISION"}, "this one is for whoever builds a release"
    assert named <= used


def test_the_route_to_files_has_no_middleware_that_the_other_routes_do_not_define() -> None:
    (route,) = yaml.safe_load((ROOT / "deploy" / "compose" / "files.yml").read_text())["http"]["routers"].values()
    _, _, defined = (ROOT / "deploy" / "gateway" / "dynamic.yml").read_text().partition("\n  middlewares:\n")
    assert set(route["middlewares"]) <= set(re.findall(r"^    ([a-z-]+):$", defined, re.MULTILINE))


def test_the_gateways_entry_points_are_those_of_the_local_cluster() -> None:
    options = yaml.safe_load((ROOT / "deploy" / "compose" / "traefik.yml").read_text())
    here = dict(_flat(options["entryPoints"], "entrypoints"))
    there = {name: value for name, value in traefik._OPTIONS.items() if name.startswith("entrypoints.")}
    addresses = {"entrypoints.web.address", "entrypoints.traefik.address"}
    assert {name: value for name, value in here.items() if name not in addresses} == there


def _flat(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        path = f"{prefix}.{name.lower()}"
        if isinstance(value, dict):
            yield from _flat(value, path)
        else:
            yield path, str(value).lower() if isinstance(value, bool) else str(value)
