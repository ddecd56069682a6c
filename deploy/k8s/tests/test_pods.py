import importlib.util
import re

import pytest

from deploy.k8s.manifests import OVERLAYS
from deploy.k8s.tests.reading import ALL, COMPONENT, DEPLOYMENTS, OURS, Workload, by_name, of_kind, workloads
from deploy.local.cluster import SERVICES
from deploy.local.running import ROOT
from shared.messaging.relay import Timings
from shared.storage.s3 import CHECK_TIMEOUT

MEBIBYTE = 1 << 20
_UNITS = {"Ki": 1 << 10, "Mi": MEBIBYTE, "Gi": 1 << 30}

every_workload = pytest.mark.parametrize("workload", ALL, ids=str)
every_deployment = pytest.mark.parametrize("workload", DEPLOYMENTS, ids=str)
every_one_of_ours = pytest.mark.parametrize("workload", OURS, ids=str)


def size(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_role_of_each_service_runs(overlay: str) -> None:
    running = {workload.name for workload in workloads(overlay) if workload.kind == "Deployment"}
    assert running == {f"{service}-{role}" for service, roles in SERVICES.items() for role in roles}
    migrations = {each.service for each in workloads(overlay) if each.labels.get(COMPONENT) == "migration"}
    assert migrations == set(SERVICES)


@every_workload
def test_a_pod_satisfies_the_restricted_standard_and_more(workload: Workload) -> None:
    pod, context = workload.pod, workload.pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert {kind for volume in pod["volumes"] for kind in volume} - {"name"} <= {"emptyDir", "secret", "configMap"}
    for container in workload.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@every_workload
def test_a_pod_declares_requests_and_limits(workload: Workload) -> None:
    for container in workload.containers():
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert set(requests) == set(limits) == {"cpu", "memory", "ephemeral-storage"}
        assert size(requests["memory"]) <= size(limits["memory"])
    folders = [volume["emptyDir"] for volume in workload.pod["volumes"] if "emptyDir" in volume]
    held = sum(size(folder["sizeLimit"]) for folder in folders)
    assert size(workload.main["resources"]["limits"]["ephemeral-storage"]) > held, "its files count as well"


@every_one_of_ours
def test_a_pod_writes_to_its_own_tmp_only(workload: Workload) -> None:
    [tmp] = [volume for volume in workload.pod["volumes"] if volume["name"] == "tmp"]
    assert tmp["emptyDir"]["sizeLimit"]
    for container in workload.containers():
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounts.pop("/tmp") == {"name": "tmp", "mountPath": "/tmp"}
        assert all(mount["readOnly"] for mount in mounts.values())


@pytest.mark.parametrize("workload", [each for each in ALL if each.kind != "Job"], ids=str)
def test_long_running_containers_have_probes(workload: Workload) -> None:
    main = workload.main
    ports = {port["name"] for port in main["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert probe in main
        for how in ("httpGet", "tcpSocket"):
            if how in main[probe]:
                assert main[probe][how]["port"] in ports


@every_deployment
def test_readiness_checks_dependencies_and_liveness_only_the_process(workload: Workload) -> None:
    main = workload.main
    assert main["livenessProbe"]["httpGet"]["path"] == main["startupProbe"]["httpGet"]["path"] == "/healthz/live"
    assert main["readinessProbe"]["httpGet"]["path"] == "/healthz/ready"
    # It checks database and storage one after the other, 2 s each at most.
    assert main["readinessProbe"]["timeoutSeconds"] >= min(CHECK_TIMEOUT, 2 * 2)
    [port] = main["ports"]
    env = workload.environment(main)
    assert str(port["containerPort"]) == env["API_PORT" if workload.role == "api" else "HEALTH_PORT"]


@every_deployment
def test_a_pod_has_time_to_terminate(workload: Workload) -> None:
    env = workload.environment(workload.main)
    grace = workload.pod["terminationGracePeriodSeconds"]
    serving = float(env["SHUTDOWN_GRACE"])
    if workload.role == "api":
        drain = float(env["DRAIN_DELAY"])
        # The probe runs every few seconds, and its result takes time to reach the endpoints.
        assert drain >= 5
        assert grace >= drain + serving + 10
    elif workload.role == "messenger":
        # The relay ends its batch while the consumer ends its messages.
        relay = Timings()
        batch = relay.publish_window + relay.publish_timeout + relay.statement_timeout
        assert grace >= max(serving / 2, batch) + 10
    else:
        source = (ROOT / "shared" / "src" / "shared" / "jobs" / "master.py").read_text()
        [milliseconds] = re.findall(r'"--worker-shutdown-timeout", "(\d+)"', source)
        assert grace >= int(milliseconds) / 1000 + 10


@every_deployment
def test_a_roll_out_stops_no_pod_before_another_is_ready(workload: Workload) -> None:
    assert workload.manifest["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }


@every_deployment
def test_a_pod_waits_for_its_schema_with_its_own_image(workload: Workload) -> None:
    [schema] = workload.pod["initContainers"]
    assert schema["args"] == ["shared.database.migrated"]
    assert schema["image"] == workload.main["image"]
    assert workload.environment(schema)["SERVICE"] == workload.service


@every_one_of_ours
def test_the_image_is_of_the_service_and_runs_an_existing_module(workload: Workload) -> None:
    assert re.fullmatch(
        rf"(.*/)?rostrum-{workload.service}:[\w.-]+(@sha256:[0-9a-f]{{64}})?", workload.main["image"]
    )
    module, *arguments = workload.main["args"]
    assert importlib.util.find_spec(module) is not None
    if workload.role == "migration":
        assert [module, *arguments] == ["alembic", "upgrade", "head"]
    if workload.kind == "Deployment":
        assert [module, *arguments] == [f"{workload.service}.{workload.role}"]


def test_pods_run_as_the_user_of_the_images() -> None:
    [user, group] = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.M)[0]
    contexts = [workload.pod["securityContext"] for workload in OURS]
    assert {(each["runAsUser"], each["runAsGroup"]) for each in contexts} == {(int(user), int(group))}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_enforces_the_restricted_standard(overlay: str) -> None:
    [namespace] = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_service_selects_pods_and_a_named_port(overlay: str) -> None:
    services = by_name(overlay, "Service")
    assert set(SERVICES) <= set(services)
    for name, service in services.items():
        selector = service["spec"]["selector"].items()
        chosen = [workload for workload in workloads(overlay) if selector <= workload.labels.items()]
        assert len(chosen) == 1, name
        ports = {port["name"] for port in chosen[0].main["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports
        if name in SERVICES:
            assert chosen[0].name == f"{name}-api"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_selector_matches_the_pods_of_its_own_deployment_only(overlay: str) -> None:
    for workload in workloads(overlay):
        if workload.kind == "Job":
            continue
        selector = workload.manifest["spec"]["selector"]["matchLabels"].items()
        assert [each.name for each in workloads(overlay) if selector <= each.labels.items()] == [workload.name]


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name.startswith("production")])
def test_a_release_is_one_version_that_also_names_its_migrations(overlay: str) -> None:
    versions = {workload.labels["app.kubernetes.io/version"] for workload in workloads(overlay)}
    tags = {workload.main["image"].rpartition(":")[2] for workload in workloads(overlay)}
    assert len(versions) == 1
    assert tags == versions
    [version] = versions
    jobs = {workload.name for workload in workloads(overlay) if workload.kind == "Job"}
    assert jobs == {f"{service}-migration-{version}" for service in SERVICES}
