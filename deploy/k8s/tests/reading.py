"""Read rendered manifests as the cluster does: what runs in a pod, with which environment."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deploy.k8s.local_secrets import local_secrets
from deploy.k8s.manifests import OVERLAYS, Manifest, manifests
from events.settings import EventsSettings
from exports.settings import ExportsSettings
from media.settings import MediaSettings
from shared.settings import Settings
from tickets.settings import TicketsSettings

SETTINGS: Mapping[str, type[Settings]] = {
    "events": EventsSettings,
    "tickets": TicketsSettings,
    "media": MediaSettings,
    "exports": ExportsSettings,
}
NAME, COMPONENT, PART_OF = (f"app.kubernetes.io/{label}" for label in ("name", "component", "part-of"))


@dataclass(frozen=True)
class Workload:
    """A Deployment, a StatefulSet or a Job, with its pod."""

    overlay: str
    manifest: Manifest

    def __str__(self) -> str:
        return f"{self.overlay}: {self.manifest['kind']} {self.name}"

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.manifest["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def pod(self) -> dict[str, Any]:
        pod: dict[str, Any] = self.manifest["spec"]["template"]["spec"]
        return pod

    @property
    def is_ours(self) -> bool:
        return self.labels.get(PART_OF) == "rostrum"

    @property
    def service(self) -> str:
        return self.labels[NAME]

    @property
    def role(self) -> str:
        return self.labels.get(COMPONENT, "server")

    @property
    def main(self) -> dict[str, Any]:
        [container] = self.pod["containers"]
        return dict(container)

    def containers(self) -> list[dict[str, Any]]:
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    def environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """Return the environment with ConfigMaps and Secrets. Raise ``KeyError`` if one, or its key, is missing."""
        env: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            env.update(by_name(self.overlay, "ConfigMap")[source["configMapRef"]["name"]]["data"])
        for item in container.get("env", ()):
            if "value" in item:
                env[item["name"]] = item["value"]
            else:
                reference = item["valueFrom"]["secretKeyRef"]
                env[item["name"]] = secrets_of(self.overlay)[reference["name"]][reference["key"]]
        return env


@cache
def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests(overlay) if manifest["kind"] in kinds]


def by_name(overlay: str, kind: str) -> dict[str, Manifest]:
    return {manifest["metadata"]["name"]: manifest for manifest in of_kind(overlay, kind)}


def workloads(overlay: str) -> list[Workload]:
    return [Workload(overlay, each) for each in of_kind(overlay, "Deployment", "StatefulSet", "Job")]


ALL = [workload for overlay in OVERLAYS for workload in workloads(overlay)]
OURS = [workload for workload in ALL if workload.is_ours]
DEPLOYMENTS = [workload for workload in ALL if workload.kind == "Deployment"]

_LOCAL = Path(__file__).resolve().parents[3] / ".state" / "k8s-tests"


@cache
def local_manifests() -> list[dict[str, Any]]:
    return local_secrets(_LOCAL, _LOCAL / "issuer")


@cache
def secrets_of(overlay: str) -> dict[str, dict[str, str]]:
    """Return Secrets by name: those of the local command, or of External Secrets with ``secret`` as each value."""
    if overlay == "local":
        return {each["metadata"]["name"]: each["stringData"] for each in local_manifests() if "stringData" in each}
    found = {
        each["spec"]["target"]["name"]
        if "name" in each["spec"].get("target", {})
        else each["metadata"]["name"]: dict(_external(each["spec"]))
        for each in of_kind(overlay, "ExternalSecret")
    }
    # CloudNativePG and cert-manager create these.
    found["postgres-ca"] = {"ca.crt": "certificate"}
    for certificate in of_kind(overlay, "Certificate"):
        found[certificate["spec"]["secretName"]] = {"tls.crt": "certificate", "tls.key": "key"}
    return found


def _external(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    given = {item["secretKey"] for item in spec["data"]}
    template = spec.get("target", {}).get("template", {}).get("data")
    if template is None:
        yield from ((key, "secret") for key in given)
        return
    for key, text in template.items():
        for name in given:
            text = text.replace(f"{{{{ .{name} | urlquery }}}}", "secret").replace(f"{{{{ .{name} }}}}", "secret")
        assert "{{" not in text, (key, text)
        yield key, text
