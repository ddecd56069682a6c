"""The network policies allow exactly the flows that the settings need: compute both and compare."""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.k8s.manifests import OVERLAYS
from deploy.k8s.tests.reading import COMPONENT, NAME, Workload, by_name, of_kind, workloads


@dataclass(frozen=True)
class Peer:
    """A pod, or an address outside of the cluster."""

    name: str
    namespace: str = ""
    labels: frozenset[tuple[str, str]] = frozenset()
    address: str = ""


Flow = tuple[str, str, int]

HERE = "rostrum"
OUTSIDE = Peer("outside", address="203.0.113.7")
PRIVATE = Peer("another machine of the network", address="10.20.30.40")
METADATA = Peer("the cloud's metadata", address="169.254.169.254")


def pod_of(name: str, namespace: str, /, **labels: str) -> Peer:
    full = {NAME if key == "name" else key: value for key, value in labels.items()}
    return Peer(name, namespace, frozenset(full.items()))


DNS = pod_of("dns", "kube-system", **{"k8s-app": "kube-dns"})
TRAEFIK = pod_of("traefik", "traefik", name="traefik")
PROMETHEUS = pod_of("prometheus", "monitoring", name="prometheus")
COLLECTOR = pod_of("collector", "monitoring", name="opentelemetry-collector")
KEDA = pod_of("keda", "keda", name="keda-operator")
CNPG = pod_of("cnpg", "cnpg-system", name="cloudnative-pg")
RABBITMQ_OPERATOR = pod_of("rabbitmq-operator", "rabbitmq-system", name="messaging-topology-operator")
STRANGERS = (
    pod_of("a stranger in the namespace", HERE, name="stranger"),
    pod_of("a pod of another namespace", "other", name="traefik"),
    pod_of("another pod of Traefik's namespace", "traefik", name="stranger"),
    pod_of("another pod of monitoring", "monitoring", name="stranger"),
    pod_of("a pod that calls itself events", "other", name="events", **{COMPONENT: "api"}),
)
AROUND = (
    DNS, TRAEFIK, PROMETHEUS, COLLECTOR, KEDA, CNPG, RABBITMQ_OPERATOR, *STRANGERS, OUTSIDE, PRIVATE, METADATA
)  # fmt: skip


@cache
def servers(overlay: str) -> Mapping[str, Peer]:
    """Return pods by the name of their Service; for pods of operators the manifests have only the labels."""
    if overlay == "local":
        return {each.name: as_peer(each) for each in workloads(overlay) if each.kind == "StatefulSet"}
    [postgres] = of_kind(overlay, "Cluster")
    [rabbitmq] = of_kind(overlay, "RabbitmqCluster")
    labels = {**postgres["spec"]["inheritedMetadata"]["labels"], "cnpg.io/cluster": postgres["metadata"]["name"]}
    return {
        f"{postgres['metadata']['name']}-rw": pod_of("postgres", HERE, **labels),
        rabbitmq["metadata"]["name"]: pod_of("rabbitmq", HERE, name=rabbitmq["metadata"]["name"]),
    }


def as_peer(workload: Workload) -> Peer:
    return Peer(workload.name, HERE, frozenset(workload.labels.items()))


def peers(overlay: str) -> list[Peer]:
    ours = [as_peer(each) for each in workloads(overlay) if each.kind != "StatefulSet"]
    return [*ours, *servers(overlay).values(), *AROUND]


# -------------------- what the policies let through


def chooses(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def is_meant(item: Mapping[str, Any], peer: Peer) -> bool:
    if "ipBlock" in item:
        if not peer.address:
            return False
        address = ipaddress.ip_address(peer.address)
        block = item["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(excepted) for excepted in block.get("except", ())
        )
    if peer.address:
        return False
    if "namespaceSelector" in item:
        if not chooses(item["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace}):
            return False
    elif peer.namespace != HERE:
        return False
    return chooses(item.get("podSelector", {}), dict(peer.labels))


def opens(policies: list[dict[str, Any]], direction: str, pod: Peer, other: Peer, port: int) -> bool:
    kind, side = ("Ingress", "from") if direction == "ingress" else ("Egress", "to")
    about = [
        policy["spec"]
        for policy in policies
        if kind in policy["spec"]["policyTypes"] and chooses(policy["spec"]["podSelector"], dict(pod.labels))
    ]
    assert about, "a pod that no policy is about may do everything"
    return any(
        any(is_meant(item, other) for item in rule[side]) and any(covers(each, port) for each in rule["ports"])
        for spec in about
        for rule in spec.get(direction, ())
    )


def covers(port: Mapping[str, Any], number: int) -> bool:
    return int(port["port"]) <= number <= int(port.get("endPort", port["port"]))


def let_through(overlay: str) -> set[Flow]:
    policies = of_kind(overlay, "NetworkPolicy")
    ports = {22, 80, 443, 8080, 8888, 9333, 15672, *named_ports(policies)}
    return {
        (source.name, target.name, port)
        for source in peers(overlay)
        for target in peers(overlay)
        for port in ports
        if HERE in (source.namespace, target.namespace)
        and (source.namespace != HERE or opens(policies, "egress", source, target, port))
        and (target.namespace != HERE or opens(policies, "ingress", target, source, port))
    }


def named_ports(policies: list[dict[str, Any]]) -> Iterator[int]:
    for policy in policies:
        for direction in ("ingress", "egress"):
            for rule in policy["spec"].get(direction, ()):
                for port in rule["ports"]:
                    yield int(port["port"])
                    yield int(port["port"]) + 1


# -------------------- what is needed

# The settings by which a role reaches something; an address that it does not use opens nothing.
_ALWAYS = {"DATABASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"}
_FILES = {"S3_ENDPOINT"}
_NEIGHBOURS = {"EVENTS_URL", "TICKETS_URL", "MEDIA_URL"}
REACHED = {
    "api": {*_ALWAYS, *_FILES, *_NEIGHBOURS, "JWKS_URL"},
    "messenger": {*_ALWAYS, *_FILES, "RABBITMQ_URL"},
    "worker": {*_ALWAYS, *_FILES, *_NEIGHBOURS, "RABBITMQ_URL"},
    "migration": {"DATABASE_URL"},
    "provisioning": {"ADMIN_DATABASE_URL"},
    "bucket": _FILES,
}
_DEFAULT_PORTS = {"https": 443, "http": 80}


def needed(overlay: str) -> set[Flow]:
    flows: set[Flow] = set()
    for workload in workloads(overlay):
        if not workload.is_ours:
            continue
        me, env = workload.name, workload.environment(workload.main)
        for name in REACHED[workload.role] & set(env):
            address = urlsplit(env[name])
            if address.scheme == "file":
                continue
            port = address.port or _DEFAULT_PORTS[address.scheme]
            flows.add((me, target_of(overlay, address.hostname or ""), port))
        if "STORAGE_PLACE" in env and "S3_ENDPOINT" not in env:
            flows.add((me, OUTSIDE.name, 443))
        if workload.kind == "Deployment":
            [port] = workload.main["ports"]
            flows.add((PROMETHEUS.name, me, port["containerPort"]))
            if workload.role == "api":
                flows.add((TRAEFIK.name, me, port["containerPort"]))
    return flows


def target_of(overlay: str, host: str) -> str:
    name, _, rest = host.partition(".")
    if rest in ("", f"{HERE}.svc"):
        if name in servers(overlay):
            return servers(overlay)[name].name
        selector = by_name(overlay, "Service")[name]["spec"]["selector"]
        [workload] = [each for each in workloads(overlay) if chooses({"matchLabels": selector}, each.labels)]
        return workload.name
    if host == "opentelemetry-collector.monitoring.svc":
        return COLLECTOR.name
    assert host.count(".") > 1
    assert not host.endswith(".svc")
    return OUTSIDE.name


def needed_by_servers(overlay: str) -> set[Flow]:
    if overlay == "local":
        return {(TRAEFIK.name, "seaweedfs", 8333)}
    among = {("rabbitmq", port) for port in (4369, 25672, 35672, 35673)} | {("postgres", 5432), ("postgres", 8000)}
    return {
        *((server, server, port) for server, port in among),
        # The Kubernetes API may have any address.
        *(("postgres", place.name, port) for place in (OUTSIDE, PRIVATE, METADATA) for port in (443, 6443)),
        (CNPG.name, "postgres", 5432),
        (CNPG.name, "postgres", 8000),
        (KEDA.name, "rabbitmq", 5672),
        (RABBITMQ_OPERATOR.name, "rabbitmq", 15672),
        (PROMETHEUS.name, "postgres", 9187),
        (PROMETHEUS.name, "rabbitmq", 15692),
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_exactly_the_needed_flows_are_allowed(overlay: str) -> None:
    here = {peer.name for peer in peers(overlay) if peer.namespace == HERE}
    dns = {(name, DNS.name, 53) for name in here}
    assert let_through(overlay) == needed(overlay) | needed_by_servers(overlay) | dns


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_flows_are_denied_by_default(overlay: str) -> None:
    [deny] = [each for each in of_kind(overlay, "NetworkPolicy") if each["metadata"]["name"] == "default-deny"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_policy_selects_a_pod(overlay: str) -> None:
    here = [peer for peer in peers(overlay) if peer.namespace == HERE]
    for policy in of_kind(overlay, "NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        assert any(chooses(selector, dict(peer.labels)) for peer in here), policy["metadata"]["name"]


def test_a_worker_reaches_no_more_than_database_broker_storage_and_traces() -> None:
    reached = {target for source, target, _ in let_through("production") if source == "media-worker"}
    assert reached == {"dns", "postgres", "rabbitmq", "outside", "collector"}
