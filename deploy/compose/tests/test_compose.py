"""Check docker-compose.yml without Docker."""

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
NAMED = dict(re.findall(r"^#?([A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE))
ROUTES = (ROOT / "deploy" / "gateway" / "dynamic.yml").read_text()
# The other roles serve probes only, which have no limits.
OF_APIS = {
    "CORS_ORIGINS",
    "MAX_REQUESTS_AT_ONCE",
    "ANSWER_TIMEOUT",
    "BODY_TIMEOUT",
    "BODY_RATE",
}
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
def test_a_setting_of_the_example_reaches_the_roles_that_read_it(service: str, role: str) -> None:
    known = {name.upper() for name in SETTINGS[service].model_fields}
    read = {name for name in NAMED if name in known and (role == "api" or name not in OF_APIS)}
    assert {"LOG_LEVEL", "OTEL_EXPORTER_OTLP_ENDPOINT"} <= read
    environment = CONTAINERS[f"{service}-{role}"]["environment"]
    assert {name for name in read if f"${{{name}:-" not in environment.get(name, "")} == set()


def test_a_limit_of_the_example_reaches_the_gateway() -> None:
    limits = {name for name in re.findall(r'env "(\w+)"', ROUTES) if name in NAMED}
    assert limits == {"RATE_LIMIT_AVERAGE", "RATE_LIMIT_BURST", "REQUESTS_AT_ONCE"}
    assert {name for name in limits if CONTAINERS["gateway"]["environment"].get(name) != f"${{{name}:-}}"} == set()


@pytest.mark.parametrize("name", sorted(OF_APIS | {"OTEL_EXPORTER_OTLP_ENDPOINT"}))
def test_unset_variables_have_the_default_of_the_setting(name: str) -> None:
    for service, known in SETTINGS.items():
        value = CONTAINERS[f"{service}-api"]["environment"][name]
        (default,) = re.findall(rf"^\$\{{{name}:-(.*)\}}$", value)
        settings = known.model_validate({name.lower(): default})
        assert getattr(settings, name.lower()) == known.model_fields[name.lower()].default


def test_the_example_has_the_default_limits() -> None:
    of_gateway = dict(re.findall(r'env "(\w+)" \| default "(\d+)"', ROUTES))
    of_apis = {
        name: default
        for name in OF_APIS
        if isinstance(default := Settings.model_fields[name.lower()].default, int | float)
    }
    assert len(of_gateway) + len(of_apis) == 7
    for name, default in {**of_gateway, **of_apis}.items():
        assert float(NAMED[name]) == float(default), name


@pytest.mark.parametrize(("service", "role"), ROLES)
def test_a_role_has_time_to_drain_before_it_is_killed(service: str, role: str) -> None:
    wanted = 60 if role == "worker" else SETTINGS[service].model_fields["shutdown_grace"].default
    assert seconds(CONTAINERS[f"{service}-{role}"]["stop_grace_period"]) > wanted


@pytest.mark.parametrize(("server", "measured"), [("postgres", 1), ("rabbitmq", 2), ("seaweedfs", 16)])
def test_a_server_with_data_has_time_to_stop(server: str, measured: int) -> None:
    assert seconds(CONTAINERS[server]["stop_grace_period"]) >= 2 * measured


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_unprivileged_and_limited(name: str) -> None:
    container = CONTAINERS[name]
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert set(container["deploy"]["resources"]["limits"]) == {"memory", "pids"}
    assert container["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", [name for name in CONTAINERS if CONTAINERS[name]["image"].startswith("rostrum-")])
def test_rostrums_containers_can_write_to_tmp_only(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    writable = [volume for volume in container.get("volumes", []) if not volume.endswith((":ro", ":ro,z"))]
    has_tmp = [place for place in (*container["tmpfs"], *writable) if re.search(r"(^|:)/tmp(:|$)", place)]
    assert len(has_tmp) == 1
    if name != "issuer":
        assert set(writable) <= set(has_tmp)


@pytest.mark.parametrize("name", CONTAINERS)
def test_long_running_containers_are_checked_and_restarted(name: str) -> None:
    container = CONTAINERS[name]
    if name in ONCE:
        assert (container["restart"], container["healthcheck"]) == ("no", {"disable": True})
        return
    assert container["restart"] == "unless-stopped"
    assert "start_interval" in container["healthcheck"]
    uses_own_image = container["image"].startswith("rostrum-") and name != "issuer"
    assert uses_own_image or container["healthcheck"]["test"], "the image of a role defines the check"


def test_only_the_gateway_and_grafana_publish_a_port_and_reach_the_outside() -> None:
    assert [name for name, container in CONTAINERS.items() if "ports" in container] == ["gateway", "grafana"]
    outside = [name for name, network in PROJECT["networks"].items() if not network.get("internal")]
    assert outside == ["edge"]
    assert [name for name, container in CONTAINERS.items() if "edge" in container.get("networks", [])] == [
        "gateway",
        "grafana",
    ]


def test_mounted_files_of_the_checkout_exist() -> None:
    places = [
        volume for container in CONTAINERS.values() for volume in container.get("volumes", []) if volume[0] == "."
    ]
    # Docker creates an empty folder for a missing file, and the server fails on it.
    assert [place for place in places if not (ROOT / place.split(":")[0]).exists()] == []
    assert len(places) > 5


def test_grafana_finds_its_dashboard_and_prometheus() -> None:
    grafana = CONTAINERS["grafana"]
    mounted = {target: ROOT / source for source, target, _ in (volume.split(":") for volume in grafana["volumes"])}
    provisioning = mounted["/etc/grafana/provisioning"]  # the image's default
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "rostrum.yml").read_text())["providers"]
    folder = mounted[provider["options"]["path"]]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/rostrum.json"
    assert (folder / "rostrum.json").is_file()
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    host, port = re.findall(r"^http://(\w+):(\d+)$", source["url"])[0]
    assert set(CONTAINERS[host]["networks"]) & set(grafana["networks"])
    assert port == "9090"  # the default of Prometheus
    assert not any(option.startswith("--web.listen-address") for option in CONTAINERS[host]["command"])


@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_the_gateway_cannot_reach_servers_with_data(server: str) -> None:
    assert not set(CONTAINERS["gateway"]["networks"]) & set(CONTAINERS[server]["networks"])


def test_prometheus_shares_a_network_with_every_target() -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / "observability" / "prometheus.yml").read_text())["scrape_configs"]
    hosts = {
        target.rpartition(":")[0]
        for job in scraped
        for group in job["static_configs"]
        for target in group["targets"]
    }
    assert {f"{service}-{role}" for service, role in ROLES} < hosts
    networks = set(CONTAINERS["prometheus"]["networks"])
    assert {host for host in hosts if not networks & set(CONTAINERS[host]["networks"])} == set()


def test_every_role_reaches_the_collector_of_the_readme() -> None:
    readme = (ROOT / "deploy" / "compose" / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(services:\n  collector:.*?)```", readme, re.DOTALL)
    networks = set(yaml.safe_load(example)["services"]["collector"]["networks"])
    roles = [f"{service}-{role}" for service, role in ROLES]
    assert [name for name in roles if not networks & set(CONTAINERS[name]["networks"])] == []
    assert NAMED["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"


@pytest.mark.parametrize(("service", "role"), ROLES)
def test_a_role_has_no_secrets_of_other_services(service: str, role: str) -> None:
    secrets = {name for name in re.findall(r"^(\w+)=generated$", EXAMPLE, re.MULTILINE) if "RABBITMQ" not in name}
    own = {name for name in secrets if name.startswith(service.upper())}
    environment = " ".join(str(value) for value in CONTAINERS[f"{service}-{role}"]["environment"].values())
    assert {name for name in secrets if f"${{{name}" in environment} <= own
    assert [volume for volume in CONTAINERS[f"{service}-{role}"]["volumes"] if "token" in volume] == [
        f"{service}-token:/run/token:ro"
    ]


def test_the_roles_open_fewer_connections_than_the_database_allows() -> None:
    command = " ".join(CONTAINERS["postgres"]["command"])
    most = int(re.findall(r"max_connections=(\d+)", command)[0])
    pools = sum(
        int(CONTAINERS[f"{service}-{role}"]["environment"]["DATABASE_POOL_SIZE"]) for service, role in ROLES
    )
    # A role has a connection or two beside its pool, the api of tickets a second pool; operators need some too.
    assert 2 * pools + 3 * len(ROLES) < most - 20


def test_the_example_lists_exactly_the_variables_in_use() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", TEXT))
    assert used - set(NAMED) == {"ROSTRUM_REVISION"}, "this one is set when a release is built"
    assert set(NAMED) <= used


def test_the_route_to_files_uses_defined_middlewares_only() -> None:
    (route,) = yaml.safe_load((ROOT / "deploy" / "compose" / "files.yml").read_text())["http"]["routers"].values()
    _, _, defined = ROUTES.partition("\n  middlewares:\n")
    assert set(route["middlewares"]) <= set(re.findall(r"^    ([a-z-]+):$", defined, re.MULTILINE))


def test_the_entry_points_have_the_options_of_the_local_cluster() -> None:
    options = yaml.safe_load((ROOT / "deploy" / "compose" / "traefik.yml").read_text())
    here = dict(_flat(options["entryPoints"], "entrypoints"))
    there = {name: value for name, value in traefik.OPTIONS.items() if name.startswith("entrypoints.")}
    addresses = {"entrypoints.web.address", "entrypoints.traefik.address"}
    assert {name: value for name, value in here.items() if name not in addresses} == there


def _flat(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        path = f"{prefix}.{name.lower()}"
        if isinstance(value, dict):
            yield from _flat(value, path)
        else:
            yield path, str(value).lower() if isinstance(value, bool) else str(value)
