import importlib
from typing import Any

import pytest

from deploy.k8s.manifests import OVERLAYS
from deploy.k8s.tests.reading import DEPLOYMENTS, Workload, by_name, of_kind, workloads
from deploy.local.cluster import SERVICES
from exports.settings import ExportsSettings
from media.settings import MediaSettings
from shared.jobs.rows import job_queue
from shared.jobs.worker import JOB_TIME_LIMIT_MS
from shared.messaging.topology import queue_name

PRODUCTION = [name for name in OVERLAYS if name.startswith("production")]

# What PostgreSQL keeps for its superuser, and the operator, its exporter and an administrator use.
RESERVE = 20

in_production = pytest.mark.parametrize("overlay", PRODUCTION)


def target_of(scaler: dict[str, Any]) -> str:
    return str(scaler["spec"]["scaleTargetRef"]["name"])


def queues() -> dict[str, str]:
    """Return the queue of each Deployment, from the code: a messenger without subscriptions consumes nothing."""
    found = {"exports-worker": job_queue(ExportsSettings()), "media-worker": job_queue(MediaSettings())}
    for service in SERVICES:
        if importlib.import_module(f"{service}.messenger").SUBSCRIPTIONS:
            found[f"{service}-messenger"] = queue_name(service)
    return found


@in_production
def test_each_scaler_has_a_deployment_of_its_own(overlay: str) -> None:
    scalers = of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    targets = [target_of(scaler) for scaler in scalers]
    assert len(set(targets)) == len(targets)
    assert set(targets) <= set(by_name(overlay, "Deployment"))
    assert {f"{service}-api" for service in SERVICES} <= set(targets)
    for scaler in scalers:
        kind = scaler["spec"]["scaleTargetRef"].get("kind", "Deployment")
        assert kind == "Deployment"


@in_production
def test_a_scaled_deployment_sets_no_replicas(overlay: str) -> None:
    scaled = {target_of(each) for each in of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject")}
    for name, deployment in by_name(overlay, "Deployment").items():
        assert ("replicas" in deployment["spec"]) == (name not in scaled)


@in_production
def test_scalers_use_the_queues_of_the_code(overlay: str) -> None:
    triggers = {target_of(each): each["spec"]["triggers"] for each in of_kind(overlay, "ScaledObject")}
    assert {name: trigger["metadata"]["queueName"] for name, [trigger] in triggers.items()} == queues()
    for [trigger] in triggers.values():
        assert trigger["authenticationRef"]["name"] in by_name(overlay, "TriggerAuthentication")


@in_production
def test_a_worker_stays_as_long_as_a_job_may_take(overlay: str) -> None:
    for scaled in of_kind(overlay, "ScaledObject"):
        if target_of(scaled).endswith("-worker"):
            behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= JOB_TIME_LIMIT_MS / 1000
            assert scaled["spec"]["minReplicaCount"] >= 1


@in_production
def test_each_deployment_has_its_own_disruption_budget_and_can_be_drained(overlay: str) -> None:
    budgets = of_kind(overlay, "PodDisruptionBudget")
    for workload in workloads(overlay):
        if workload.kind == "Deployment":
            about = [each for each in budgets if chosen(each, workload)]
            assert len(about) == 1, workload.name
            assert about[0]["spec"]["maxUnavailable"] == 1
            assert least_replicas(overlay, workload) >= 2, "one that goes must leave another"
    for budget in budgets:
        is_servers = budget["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": "rabbitmq"}
        assert is_servers or any(chosen(budget, each) for each in workloads(overlay))


def chosen(budget: dict[str, Any], workload: Workload) -> bool:
    return bool(budget["spec"]["selector"]["matchLabels"].items() <= workload.labels.items())


def least_replicas(overlay: str, workload: Workload) -> int:
    for scaler in of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject"):
        if target_of(scaler) == workload.name:
            return int(scaler["spec"].get("minReplicas") or scaler["spec"].get("minReplicaCount"))
    return int(workload.manifest["spec"]["replicas"])


def most_replicas(overlay: str, workload: Workload) -> int:
    for scaler in of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject"):
        if target_of(scaler) == workload.name:
            return int(scaler["spec"].get("maxReplicas") or scaler["spec"].get("maxReplicaCount"))
    return int(workload.manifest["spec"]["replicas"])


def connections(workload: Workload) -> int:
    """Return the maximum of one pod."""
    pool = int(workload.environment(workload.main)["DATABASE_POOL_SIZE"])
    if workload.name == "tickets-api":
        return 2 * pool  # the ticket lists have a pool of the driver, of the same size
    if workload.role == "messenger":
        return pool + 1  # the relay's lock session
    return pool


def most_connections(overlay: str) -> int:
    surge = 1
    pods = sum(
        (most_replicas(overlay, workload) + surge) * connections(workload)
        for workload in workloads(overlay)
        if workload.kind == "Deployment"
    )
    migrations = 2 * len(SERVICES)  # the migrator and its lock session
    return pods + migrations


def max_connections(overlay: str) -> int:
    if overlay == "local":
        [postgres] = [each for each in workloads(overlay) if each.name == "postgres"]
        [setting] = [each for each in postgres.main["args"] if each.startswith("max_connections=")]
        return int(setting.partition("=")[2])
    [cluster] = of_kind(overlay, "Cluster")
    return int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_database_has_connections_for_all_replicas_during_a_roll_out(overlay: str) -> None:
    assert most_connections(overlay) <= max_connections(overlay) - RESERVE


@pytest.mark.parametrize("workload", [each for each in DEPLOYMENTS if each.overlay in PRODUCTION], ids=str)
def test_replicas_spread_over_zones_and_nodes(workload: Workload) -> None:
    constraints = workload.pod["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in constraints] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    for each in constraints:
        assert each["labelSelector"]["matchLabels"].items() <= workload.labels.items()
        keys = {*each["matchLabelKeys"]} - {"pod-template-hash"}
        assert keys <= set(workload.labels)
        assert not keys & set(each["labelSelector"]["matchLabels"])
