"""Settings: environment variables with defaults for one machine, one class per service.

A service subclasses ``Settings``. Nothing reads settings at import: each process builds its own instance at
start and passes it on, so tests build theirs.
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
    max_head_size: int = Field(
        default=32 << 10, description="Of a request's line and headers; more than the gateway lets through."
    )
    max_requests_at_once: int = Field(
        default=1000, description="Of one process, followers of a job's progress among them; 0 lifts the limit."
    )
    head_timeout: float = Field(default=15.0, description="For a request's line and headers to come in.")
    body_timeout: float = Field(
        default=30.0, description="For a body to come in, and a second more for each `body_rate` bytes of it."
    )
    body_rate: int = Field(default=8 << 10, description="Bytes a second, below which a body is too slow.")
    answer_timeout: float = Field(
        default=50.0, description="From a whole request to its answer's first line; less than the gateway waits."
    )
    stall_timeout: float = Field(default=60.0, description="For a client to take a part of an answer.")
    idle_timeout: int = Field(
        default=30, description="For the next request of a connection; more than the gateway keeps one."
    )
    drain_delay: float = Field(
        default=0.0,
        description="How long an api that is told to stop takes requests still, until whoever balances the load "
        "has learnt that it is not ready. 0 where there is but one.",
    )
    shutdown_grace: float = Field(default=20.0, description="For what is under way when a process stops.")

    token_issuer: str = "http://localhost/rostrum"  # noqa: S105 - a name, not a secret
    token_audience: str = "rostrum"  # noqa: S105 - a name, not a secret
    jwks_url: str = Field(
        default="http://localhost/jwks.json", description="Where the issuer's keys are: https:, http: or file: URL."
    )
    service_token_file: Path | None = Field(
        default=None, description="File with the token this service shows to other services; re-read on use."
    )

    public_url: str = Field(default="http://127.0.0.1:8080", description="The gateway's address, for links.")

    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Sites whose scripts may ask, separated by commas: `https://example.org`, or `*`."
    )

    otel_exporter_otlp_endpoint: str = Field(
        default="", description="Where traces go: the address of an OpenTelemetry collector (OTLP over HTTP)."
    )

    log_level: str = "INFO"
    log_format: Literal["json", "console"] = "json"

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, url: str) -> str:
        return url.rstrip("/")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            # A browser sends it just so; one written in another way would never match, and nobody would see why.
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin: scheme and host in lower case, the port if it is not the usual "
                    "one, and nothing behind it, such as https://example.org"
                )
        return origins


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
