"""The only reader of the environment: `.env` and the process's variables, the latter winning; read once, then passed down."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from resilience.registry import PolicyName

DEFAULT_MODEL = "gpt-4.1-mini"
"""What `MODEL_REASONING` and `MODEL_ROUTING` stand for when a provider is configured and they are not."""
_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_ROLES = frozenset({"MODEL_FALLBACK"})


class SettingsError(Exception):
    """The configuration is wrong; each line of the text names a variable and says what to set."""


class _Settings(BaseModel):
    """One concern. Variables are the aliases; an empty one counts as unset."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


def _url(schemes: tuple[str, ...]) -> BeforeValidator:
    def check(value: Any) -> Any:
        parts = urlsplit(str(value))
        if parts.scheme not in schemes or not (parts.netloc or parts.path):
            raise ValueError(f"must be an address that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return BeforeValidator(check)


HttpUrl = Annotated[str, _url(("http", "https"))]


class ServerSettings(_Settings):
    """Where the service listens, keeps its data and writes its log."""

    host: str = Field("127.0.0.1", alias="HOST", min_length=1)
    port: int = Field(8000, alias="PORT", ge=0, le=65535)
    data_dir: Path = Field(Path(".data"), alias="DATA_DIR")
    log_level: str = Field("INFO", alias="LOG_LEVEL", pattern=r"(?i)^(debug|info|warning|error|critical)$")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class StorageSettings(_Settings):
    """Which Redis; None: the embedded one."""

    redis_url: Annotated[str, _url(("redis", "rediss", "unix"))] | None = Field(None, alias="REDIS_URL")


class AccessSettings(_Settings):
    """Who may call. Without keys everybody is tenant `default`, and then only from this machine, unless `allow_open`."""

    api_keys: Annotated[Mapping[str, str], BeforeValidator(lambda value: _parse_keys(value))] = Field(
        default_factory=dict, alias="API_KEYS", repr=False
    )
    allow_open: bool = Field(False, alias="ALLOW_OPEN")


class ModelSettings(_Settings):
    """Which models. `roles` maps a role (`routing`, `reasoning` or a specialist) to a model of the provider."""

    api_key: SecretStr | None = Field(None, alias="OPENAI_API_KEY")
    base_url: HttpUrl | None = Field(None, alias="OPENAI_BASE_URL")
    roles: Mapping[str, str] = Field(default_factory=dict)
    fallback: str | None = Field(None, alias="MODEL_FALLBACK")
    fallback_base_url: HttpUrl | None = Field(None, alias="FALLBACK_BASE_URL")
    fallback_api_key: SecretStr | None = Field(None, alias="FALLBACK_API_KEY")

    @property
    def is_offline(self) -> bool:
        """Whether no provider is configured, so that the offline model answers."""
        return self.api_key is None and self.base_url is None

    @model_validator(mode="after")
    def _fit(self) -> ModelSettings:
        if self.is_offline and (self.roles or self.fallback):
            names = [f"MODEL_{role.upper()}" for role in self.roles] or ["MODEL_FALLBACK"]
            raise ValueError(
                f"{names[0]} is set, but no provider is: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server that needs no key"
            )
        if self.fallback is None and (self.fallback_base_url or self.fallback_api_key):
            raise ValueError("FALLBACK_BASE_URL or FALLBACK_API_KEY is set, but not which model to ask there: set MODEL_FALLBACK")
        return self


class RunSettings(_Settings):
    """Where runs execute, and whom their webhooks may reach."""

    execution: Literal["local", "workers"] = Field("local", alias="EXECUTION")
    conformance_graph: bool = Field(False, alias="CONFORMANCE_GRAPH")
    lease: float = Field(10.0, alias="LEASE_SECONDS", ge=0.5, le=300.0)
    webhook_secret: SecretStr = Field(SecretStr(""), alias="WEBHOOK_SECRET")
    webhook_allow_hosts: str = Field("", alias="WEBHOOK_ALLOW_HOSTS")


class GuardSettings(_Settings):
    """What protects the service, and how long a run may take, seconds."""

    deadline: float = Field(60.0, alias="DEADLINE_SECONDS", gt=0.0)
    maximum_deadline: float = Field(600.0, alias="MAX_DEADLINE_SECONDS", gt=0.0)
    background_deadline: float = Field(3600.0, alias="BACKGROUND_DEADLINE_SECONDS", gt=0.0)
    max_model_calls: int = Field(512, alias="MAX_MODEL_CALLS", ge=1, le=10_000)
    queue_share: float = Field(0.1, alias="QUEUE_SHARE", ge=0.0, le=100.0)
    off: Annotated[frozenset[PolicyName], BeforeValidator(lambda value: _parse_policies(value))] = Field(
        frozenset(), alias="RESILIENCE_OFF"
    )

    @model_validator(mode="after")
    def _fit(self) -> GuardSettings:
        if self.deadline > self.maximum_deadline:
            raise ValueError(f"DEADLINE_SECONDS={self.deadline:g} is over MAX_DEADLINE_SECONDS={self.maximum_deadline:g}")
        return self


class TracingSettings(_Settings):
    """Where traces go; without keys: nowhere."""

    public_key: str | None = Field(None, alias="LANGFUSE_PUBLIC_KEY")
    secret_key: SecretStr | None = Field(None, alias="LANGFUSE_SECRET_KEY")
    base_url: HttpUrl = Field("https://cloud.langfuse.com", alias="LANGFUSE_BASE_URL")

    @model_validator(mode="after")
    def _fit(self) -> TracingSettings:
        given = {"LANGFUSE_PUBLIC_KEY": self.public_key, "LANGFUSE_SECRET_KEY": self.secret_key}
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == 1 or (missing and "base_url" in self.model_fields_set):
            raise ValueError(f"tracing is half configured: set {' and '.join(missing)} too, or unset the other LANGFUSE_ variables")
        return self


class Settings(_Settings):
    """Everything that can be configured."""

    server: ServerSettings
    storage: StorageSettings
    access: AccessSettings
    models: ModelSettings
    tracing: TracingSettings
    runs: RunSettings
    guards: GuardSettings

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        if not (self.access.api_keys or self.access.allow_open or self.server.is_loopback):
            raise ValueError(
                f"HOST={self.server.host} lets other machines in without a key: set API_KEYS=key:tenant, or ALLOW_OPEN=true to allow it"
            )
        return self

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None, env_file: Path = Path(".env")) -> Settings:
        """The settings of this process.

        Args:
            environment: The variables; None: those of the process over those of `env_file`.
            env_file: A file of `NAME=value` lines; it need not exist.

        Raises:
            SettingsError: Something is wrong; the text says what to set.
        """
        if environment is None:
            environment = {**{name: value or "" for name, value in dotenv_values(env_file).items()}, **os.environ}
        given = {name: value.strip() for name, value in environment.items() if value.strip()}
        roles = {
            name.removeprefix("MODEL_").lower(): value
            for name, value in given.items()
            if name.startswith("MODEL_") and name not in _NOT_ROLES
        }
        try:
            return cls(
                server=ServerSettings.model_validate(given),
                storage=StorageSettings.model_validate(given),
                access=AccessSettings.model_validate(given),
                models=ModelSettings.model_validate({**given, "roles": roles}),
                tracing=TracingSettings.model_validate(given),
                runs=RunSettings.model_validate(given),
                guards=GuardSettings.model_validate(given),
            )
        except ValidationError as exc:
            raise SettingsError("\n".join(_line(dict(error)) for error in exc.errors())) from None

    @classmethod
    def variables(cls) -> frozenset[str]:
        """The fixed names that are read; `MODEL_<ROLE>` comes on top."""
        concerns = (ServerSettings, StorageSettings, AccessSettings, ModelSettings, TracingSettings, RunSettings, GuardSettings)
        return frozenset(field.alias for concern in concerns for field in concern.model_fields.values() if field.alias)


def _parse_keys(value: Any) -> Any:
    """`key:tenant,key:tenant` as a mapping of key to tenant."""
    if not isinstance(value, str):
        return value
    keys: dict[str, str] = {}
    for number, pair in enumerate(value.split(","), start=1):
        key, colon, tenant = pair.strip().rpartition(":")
        if not (key and colon and _TENANT.fullmatch(tenant)):
            raise ValueError(f"entry {number} must be key:tenant, the tenant of letters, digits, - and _")
        if key in keys:
            raise ValueError(f"entry {number} repeats a key")
        keys[key] = tenant
    return keys


def _parse_policies(value: Any) -> Any:
    """`breaker,retry` as a set."""
    if not isinstance(value, str):
        return value
    names = [name.strip() for name in value.split(",")]
    unknown = sorted(set(names) - set(PolicyName))
    if unknown:
        raise ValueError(f"there is no policy {unknown[0]!r}; there are: {', '.join(PolicyName)}")
    return frozenset(map(PolicyName, names))


def _line(error: dict[str, Any]) -> str:
    """One fault in words; the value is left out, since it may be a secret."""
    message = str(error["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in error["loc"])
    return f"{where}: {message}" if where else message
