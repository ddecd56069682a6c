"""Settings: environment variables with defaults for one machine, one class per service.

Nothing reads settings at import: each process makes one instance at its start and passes it on.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MEBIBYTE = 1 << 20

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


class Settings(BaseSettings):
    """What every process of every service needs. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    service: str = Field(description="The name of the service, its schema, its role and its queues.")

    database_url: SecretStr = SecretStr("postgresql+asyncpg://localhost/rostrum")
    database_pool_size: int = 5
    database_lock_timeout: float = 3.0
    database_statement_timeout: float = 10.0

    rabbitmq_url: SecretStr = SecretStr("amqp://guest:guest@localhost:5672/")

    api_host: str = "127.0.0.1"
    api_port: int = 8000
    health_port: int = Field(default=8001, description="The port of a messenger's or worker's probes and metrics.")
    max_body_size: int = Field(default=1 * MEBIBYTE, description="The largest body, except on upload routes.")
    max_requests_at_once: int = Field(
        default=1000,
        description="The requests in flight in one process, streams of progress included; 0 disables the limit.",
    )
    body_timeout: float = Field(
        default=30.0, description="How long a body may take, plus a second for each `body_rate` bytes."
    )
    body_rate: int = Field(default=8 << 10, description="The slowest accepted body, in bytes a second.")
    answer_timeout: float = Field(
        default=50.0,
        description="How long a response may take to begin once the request is complete. Must be less than the "
        "gateway's `responseHeaderTimeout`.",
    )
    idle_timeout: int = Field(
        default=30,
        description="How long an idle connection stays open. Must be more than the gateway's `idleConnTimeout`.",
    )
    drain_delay: float = Field(
        default=0.0,
        description="How long the api keeps serving after SIGTERM so that load balancers notice. 0 for a single "
        "process.",
    )
    shutdown_grace: float = Field(
        default=20.0, description="How long work in progress may take when a process stops."
    )

    token_issuer: str = "http://localhost/rostrum"  # noqa: S105 - a name, not a secret
    token_audience: str = "rostrum"  # noqa: S105 - a name, not a secret
    jwks_url: str = Field(
        default="http://localhost/jwks.json", description="The issuer's keys: an https:, http: or file: URL."
    )
    service_token_file: Path | None = Field(
        default=None,
        description="The file with this service's token for other services; read again when it changes.",
    )

    public_url: str = Field(default="http://127.0.0.1:8080", description="The gateway's address, for links.")

    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins whose scripts may call the API, separated by commas: `https://example.org`, or `*`.",
    )

    otel_exporter_otlp_endpoint: str = Field(
        default="", description="The OpenTelemetry collector (OTLP over HTTP) that gets the traces; empty for none."
    )

    log_level: str = "INFO"
    log_format: Literal["json", "console"] = "json"

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, url: str) -> str:
        return url.rstrip("/")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            # Browsers send exactly this form, so any other one would never match.
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin. Use scheme and host in lower case and the port unless it is the "
                    "default, with nothing after it, such as https://example.org"
                )
        return origins


class StorageSettings(BaseSettings):
    """Where files are stored; mixed into the settings of services that store files."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    storage_place: Literal["local", "s3", "gs"] = "local"
    storage_folder: Path = Path(".state/storage")
    storage_signing_key: SecretStr = Field(
        default=SecretStr(""),
        description="The key of download links of the `local` place, the same in all replicas. With several, "
        "separated by commas, the first signs and all verify.",
    )
    s3_endpoint: str | None = None
    s3_public_endpoint: str | None = Field(
        default=None, description="The address of the S3 place in download links; `s3_endpoint` if not set."
    )
    s3_region: str = "us-east-1"
    s3_bucket: str = "rostrum"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
