import json
from pathlib import Path

import pytest

from deploy.k8s.manifests import OVERLAYS
from deploy.k8s.tests.reading import (
    OURS,
    SETTINGS,
    Workload,
    by_name,
    local_manifests,
    of_kind,
    secrets_of,
    workloads,
)
from shared.settings import Settings, StorageSettings

# Read by asyncpg itself; by shared.database.provisioning.
_OTHERS = {"PGSSLMODE", "PGSSLROOTCERT"}
_OF_ROLE = {"provisioning": {"ADMIN_DATABASE_URL", "PROVISION"}}

every_own_workload = pytest.mark.parametrize("workload", OURS, ids=str)
every_process = pytest.mark.parametrize("workload", [each for each in OURS if each.kind == "Deployment"], ids=str)

# Settings that a role does not use: an api never connects to the broker.
UNUSED = {"api": {"rabbitmq_url"}}


def known(workload: Workload, settings: type[Settings]) -> set[str]:
    return {name.upper() for name in settings.model_fields} | _OTHERS | _OF_ROLE.get(workload.role, set())


@every_own_workload
def test_every_variable_is_a_setting_of_the_service(workload: Workload) -> None:
    settings = SETTINGS[workload.service]
    for container in workload.containers():
        given = set(workload.environment(container))
        assert given <= known(workload, settings)


@every_process
def test_every_setting_with_a_default_for_one_machine_is_set(workload: Workload) -> None:
    fields = SETTINGS[workload.service].model_fields
    local = {
        name
        for name, field in fields.items()
        if any(word in _text(field.default) for word in ("localhost", "127.0.0.1", "local"))
    }
    assert {"database_url", "api_host", "jwks_url", "token_issuer", "public_url"} <= local
    given = {name.lower() for name in workload.environment(workload.main)}
    assert local - given <= UNUSED.get(workload.role, set())


def _text(default: object) -> str:
    reveal = getattr(default, "get_secret_value", None)
    return str(reveal()) if reveal else str(default)


@every_process
def test_the_settings_are_valid(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in workload.environment(workload.main).items():
        monkeypatch.setenv(name, value)
    settings = SETTINGS[workload.service]()
    assert settings.service == workload.service
    assert settings.api_host == "0.0.0.0"
    if isinstance(settings, StorageSettings):
        assert settings.storage_place in ("s3", "gs")
        assert settings.s3_bucket == f"rostrum-{workload.service}"
        assert settings.s3_access_key_id
        assert settings.s3_secret_access_key


@every_own_workload
def test_files_that_settings_name_are_mounted(workload: Workload) -> None:
    for container in workload.containers():
        mounts = {mount["mountPath"] for mount in container.get("volumeMounts", ())}
        env = workload.environment(container)
        paths = [env[name] for name in ("PGSSLROOTCERT",) if name in env]
        if workload.role == "api" and env.get("JWKS_URL", "").startswith("file:"):
            paths.append(env["JWKS_URL"].removeprefix("file://"))
        if workload.service == "exports" and workload.role in ("api", "worker") and container is workload.main:
            paths.append(env["SERVICE_TOKEN_FILE"])
        for path in paths:
            assert str(Path(path).parent) in mounts


@every_own_workload
def test_secrets_and_config_maps_that_are_mounted_exist(workload: Workload) -> None:
    config_maps = {*by_name(workload.overlay, "ConfigMap")}
    if workload.overlay == "local":
        config_maps |= {each["metadata"]["name"] for each in local_manifests() if each["kind"] == "ConfigMap"}
    for volume in workload.pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["secretName"] in secrets_of(workload.overlay)
        if "configMap" in volume:
            assert volume["configMap"]["name"] in config_maps


def test_the_servers_of_the_local_overlay_have_their_secrets() -> None:
    for workload in workloads("local"):
        if workload.kind == "StatefulSet":
            workload.environment(workload.main)
            for volume in workload.pod["volumes"]:
                if "secret" in volume:
                    assert volume["secret"]["secretName"] in secrets_of("local")


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "local"])
def test_references_of_operators_resources_exist(overlay: str) -> None:
    secrets = secrets_of(overlay)
    [cluster] = of_kind(overlay, "Cluster")
    owners = set()
    for role in cluster["spec"]["managed"]["roles"]:
        assert secrets[role["passwordSecret"]["name"]]["username"] == role["name"]
        owners.add(role["name"])
    for database in of_kind(overlay, "Database"):
        assert database["spec"]["cluster"]["name"] == cluster["metadata"]["name"]
        assert database["spec"]["owner"] in owners
    for user in of_kind(overlay, "User"):
        assert secrets[user["spec"]["importCredentialsSecret"]["name"]]["username"] == user["metadata"]["name"]
    [plugin] = cluster["spec"]["plugins"]
    assert plugin["parameters"]["barmanObjectName"] in by_name(overlay, "ObjectStore")
    for store in of_kind(overlay, "ObjectStore"):
        for credential in store["spec"]["configuration"].get("s3Credentials", {}).values():
            assert credential["key"] in secrets[credential["name"]]
    for authentication in of_kind(overlay, "TriggerAuthentication"):
        for reference in authentication["spec"]["secretTargetRef"]:
            assert reference["key"] in secrets[reference["name"]]
    for gateway in of_kind(overlay, "Gateway"):
        for listener in gateway["spec"]["listeners"]:
            for reference in listener.get("tls", {}).get("certificateRefs", ()):
                assert reference["name"] in secrets


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "local"])
def test_gateway_and_certificate_have_the_public_host_name(overlay: str) -> None:
    [workload] = [each for each in workloads(overlay) if each.name == "events-api"]
    host = workload.environment(workload.main)["PUBLIC_URL"].removeprefix("https://")
    [certificate] = of_kind(overlay, "Certificate")
    [gateway] = of_kind(overlay, "Gateway")
    assert certificate["spec"]["dnsNames"] == [host]
    assert {listener["hostname"] for listener in gateway["spec"]["listeners"]} == {host}


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "local"])
def test_no_secret_is_in_a_manifest(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    for workload in workloads(overlay):
        for container in workload.containers():
            plain = {item["name"] for item in container.get("env", ()) if "value" in item}
            assert not plain & {"DATABASE_URL", "RABBITMQ_URL", "S3_SECRET_ACCESS_KEY", "STORAGE_SIGNING_KEY"}


def test_local_secrets_are_stable_and_hold_a_service_token() -> None:
    [keys] = [each for each in local_manifests() if each["kind"] == "ConfigMap"]
    assert all("d" not in key for key in json.loads(keys["data"]["jwks.json"])["keys"]), (
        "the private half stays here"
    )
    assert secrets_of("local")["exports-token"]["token"].count(".") == 2
