import json
import re
from typing import Any

import pytest

from deploy.k8s.manifests import OVERLAYS
from deploy.k8s.tests.reading import of_kind, secrets_of
from deploy.local.cluster import SERVICES
from docs.generate_messages import message_classes
from exports.settings import ExportsSettings
from media.settings import MediaSettings
from shared.jobs.rows import job_queue
from shared.messaging.topology import EXCHANGE, dead_letter_queue_name, parked_queue_name, queue_name


def permissions(overlay: str) -> dict[str, dict[str, str]]:
    if overlay == "local":
        definitions = json.loads(secrets_of("local")["rabbitmq-definitions"]["definitions.json"])
        return {each["user"]: each for each in definitions["permissions"]}
    return {
        each["spec"]["userReference"]["name"]: each["spec"]["permissions"]
        for each in of_kind(overlay, "Permission")
    }


def topics(overlay: str) -> dict[str, dict[str, str]]:
    if overlay == "local":
        definitions = json.loads(secrets_of("local")["rabbitmq-definitions"]["definitions.json"])
        return {each["user"]: each for each in definitions["topic_permissions"]}
    specs: list[dict[str, Any]] = [each["spec"] for each in of_kind(overlay, "TopicPermission")]
    return {each["userReference"]["name"]: each["permissions"] for each in specs}


def job_queues(service: str) -> set[str]:
    names = {"media": job_queue(MediaSettings()), "exports": job_queue(ExportsSettings())}
    # dramatiq declares these three for each.
    return {f"{names[service]}{suffix}" for suffix in ("", ".DQ", ".XQ")} if service in names else set()


def own_queues(service: str) -> set[str]:
    return {queue_name(service), dead_letter_queue_name(service), parked_queue_name(service), *job_queues(service)}


def may(permission: dict[str, str], what: str, name: str) -> bool:
    return re.search(permission[what], name) is not None


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_service_has_the_broker_permissions_that_its_code_needs(overlay: str) -> None:
    assert set(permissions(overlay)) == set(topics(overlay)) == set(SERVICES)
    for service, permission in permissions(overlay).items():
        for name in (EXCHANGE, *own_queues(service)):
            assert may(permission, "configure", name)
            assert may(permission, "write", name)
            assert may(permission, "read", name)
        assert may(permission, "write", "amq.default")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_service_cannot_use_the_queues_of_another(overlay: str) -> None:
    for service, permission in permissions(overlay).items():
        for other in set(SERVICES) - {service}:
            for name in own_queues(other):
                assert not any(may(permission, what, name) for what in ("configure", "write", "read"))
        for name in ("amq.default", "amq.topic", "other", f"x{service}.messages", ""):
            assert not may(permission, "configure", name)
            assert not may(permission, "read", name)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_service_sends_messages_of_its_own_name_only(overlay: str) -> None:
    types = [message.message_type for message in message_classes()]
    assert types
    for service, topic in topics(overlay).items():
        assert topic["exchange"] == EXCHANGE
        for message_type in types:
            assert may(topic, "read", message_type)
            assert may(topic, "write", message_type) == message_type.startswith(f"{service}.")
