"""Settings: environment variables with defaults for one machine, one class per service.

A service subclasses ``Settings``. Nothing reads settings at import: each process builds its own instance at
start and passes it on, so tests build theirs.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBIBYTE = 1 << 20


class Settings(BaseSettings):
    """What every process of every service needs. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    service: str = Field(description="Name of the service: its schema, its role, its queues.")

    database_url: SecretStr = SecretStr("postgresql+asyncpg://localhost/rostrum")
    database_pool_size: int = 5
    database_lock_timeout: float = 3.0
    database_statement_timeout: float = 10.0

    rabbitmq_url: SecretStr = SecretStr("amqp://guest:guest@localhost:5672/")

    api_host: str = "127.0.0.1"
    api_port: int = 8000
    health_port: int = Field(default=8001, description="Probes and metrics of messenger and worker.")
    max_body_size: int = 1 * MEBIBYTE
    shutdown_grace: float = 20.0

    token_issuer: str = "http://localhost/rostrum"  # noqa: S105 - a name, not a secret
    token_audience: str = "rostrum"  # noqa: S105 - a name, not a secret
    jwks_url: str = Field(
        default="http://localhost/jwks.json", description="Where the issuer's keys are: https:, http: or file: URL."
    )
    service_token_file: Path | None = Field(
        default=None, description="File with the token this service shows to other services; re-read on use."
    )

    public_url: str = Field(default="http://127.0.0.1:8080", description="The gateway's address, for links.")

    otel_exporter_otlp_endpoint: str = Field(
        default="", description="Where traces go: the address of an OpenTelemetry collector (OTLP over HTTP)."
    )

    log_level: str = "INFO"
    log_format: Literal["json", "console"] = "json"


class StorageSettings(BaseSettings):
    """Where files live; mixed into the settings of services that keep files."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    storage_place: Literal["local", "s3", "gs"] = "local"
    storage_folder: Path = Path(".state/storage")
    storage_signing_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs download links of the `local` place; the same for all replicas. Several, separated by "
        "commas: the first signs, all verify.",
    )
    s3_endpoint: str | None = None
    s3_public_endpoint: str | None = Field(
        default=None, description="Where users reach the S3 place, for links, when that is not `s3_endpoint`."
    )
    s3_region: str = "us-east-1"
    s3_bucket: str = "rostrum"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
