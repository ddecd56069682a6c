"""The Secrets of the local overlay: ``python -m deploy.k8s.local_secrets | kubectl apply -f -``.

Passwords are generated once and kept in ``.state/k8s``. The checkout's own issuer signs tokens, so the services
accept those of ``make token``. The service token of exports is valid for 30 days.
"""

import base64
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.local.cluster import SERVICES
from deploy.local.issuer import load_issuer, write_secret
from deploy.local.running import ROOT, state_folder

NAMESPACE = "rostrum"
VHOST = "rostrum"
WITH_FILES = ("media", "exports")
TOKEN_LIFETIME = 30 * 24 * 3600


def local_secrets(state: Path, issuer_folder: Path) -> list[dict[str, Any]]:
    """Return the manifests: Secrets, and the ConfigMap with the issuer's public keys."""
    passwords = _passwords(state / "passwords.json")
    issuer = load_issuer(issuer_folder)
    token = issuer.issue("service:exports", scope="internal", lifetime=TOKEN_LIFETIME)
    admin = passwords["postgres"]
    return [
        _secret(
            "postgres-admin",
            password=admin,
            ADMIN_DATABASE_URL=f"postgresql://postgres:{admin}@postgres:5432/postgres",
            PROVISION=",".join(f"{service}:{passwords[f'database.{service}']}" for service in SERVICES),
        ),
        _secret("rabbitmq-definitions", **{"definitions.json": json.dumps(_definitions(passwords))}),
        _secret("seaweedfs-identities", **{"s3.json": json.dumps(_identities(passwords))}),
        *(_secret(f"{service}-access", **_access(service, passwords)) for service in SERVICES),
        _secret("exports-token", token=token),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "issuer-keys", "namespace": NAMESPACE},
            "data": {"jwks.json": issuer.jwks_path.read_text()},
        },
    ]


def broker_permissions(service: str) -> dict[str, str]:
    """Allow its own queues, the shared exchange, and the default exchange, which reaches a queue by name."""
    own = rf"{service}\..+"
    return {
        "configure": rf"^(rostrum\.messages|{own})$",
        "write": rf"^(rostrum\.messages|amq\.default|{own})$",
        "read": rf"^(rostrum\.messages|{own})$",
    }


def _access(service: str, passwords: Mapping[str, str]) -> dict[str, str]:
    values = {
        "DATABASE_URL": f"postgresql+asyncpg://{service}:{passwords[f'database.{service}']}@postgres:5432/rostrum",
        "RABBITMQ_URL": f"amqp://{service}:{passwords[f'rabbitmq.{service}']}@rabbitmq:5672/{VHOST}",
    }
    if service in WITH_FILES:
        values["S3_ACCESS_KEY_ID"] = service
        values["S3_SECRET_ACCESS_KEY"] = passwords[f"s3.{service}"]
    return values


def _definitions(passwords: Mapping[str, str]) -> dict[str, Any]:
    return {
        "vhosts": [{"name": VHOST}],
        "users": [
            {
                "name": service,
                "password_hash": _hashed(passwords[f"rabbitmq.{service}"]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
            }
            for service in SERVICES
        ],
        "permissions": [{"user": service, "vhost": VHOST, **broker_permissions(service)} for service in SERVICES],
        "topic_permissions": [
            {
                "user": service,
                "vhost": VHOST,
                "exchange": "rostrum.messages",
                "write": rf"^{service}\.",
                "read": ".*",
            }
            for service in SERVICES
        ],
    }


def _hashed(password: str) -> str:
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _identities(passwords: Mapping[str, str]) -> dict[str, Any]:
    """Return an account for each service with files, for its own bucket only."""
    return {
        "identities": [
            {
                "name": service,
                "credentials": [{"accessKey": service, "secretKey": passwords[f"s3.{service}"]}],
                "actions": [
                    f"{action}:rostrum-{service}" for action in ("Admin", "Read", "Write", "List", "Tagging")
                ],
            }
            for service in WITH_FILES
        ]
    }


def _passwords(path: Path) -> dict[str, str]:
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    names = [
        "postgres",
        *(f"{server}.{service}" for server in ("database", "rabbitmq") for service in SERVICES),
        *(f"s3.{service}" for service in WITH_FILES),
    ]
    wanted = {name: known.get(name) or secrets.token_hex(24) for name in names}
    if wanted != known:
        write_secret(path, json.dumps(wanted, indent=2))
    return wanted


def _secret(name: str, /, **values: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": values,
    }


def main() -> None:
    manifests = local_secrets(ROOT / ".state" / "k8s", state_folder() / "issuer")
    yaml.safe_dump_all(manifests, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
