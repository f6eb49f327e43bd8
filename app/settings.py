"""The only reader of the environment: `.env` and the process's variables, the latter winning; read once, then passed down."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from agents.models.limits import LIMITS, Overrides
from resilience.chaos import ChaosPlan
from resilience.registry import PolicyName

DEFAULT_MODEL = "gpt-4.1-mini"
"""What `MODEL_REASONING` and `MODEL_ROUTING` stand for when a provider is configured and they are not."""
DEFAULT_REQUESTS_PER_MINUTE = 100
"""Runs that one API key may ask for per minute unless `RATE_LIMIT_RPM` says otherwise: more than a person, less than a loop."""
EVERY_ORIGIN = "*"
"""What `CORS_ORIGINS` says for pages from anywhere."""
LEAST_SECRET = 32
"""Shortest secret that signs browser tokens, characters: who has a token can try secrets at home."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9A-Fa-f:]+\](:\d{1,5})?")
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
    """Where the service listens, keeps its data and writes its log; `metrics_port` is a worker's, which has no other."""

    host: str = Field("127.0.0.1", alias="HOST", min_length=1)
    port: int = Field(8000, alias="PORT", ge=0, le=65535)
    metrics_port: int | None = Field(None, alias="METRICS_PORT", ge=1, le=65535)
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
    """Who may call. Without keys everybody is tenant `default`, and then only from this machine, unless `allow_open`.

    Without `admin_token` there are no routes for operators. `cors_origins` are the pages that may call and embed the chat; None: the
    default. `browser_token_secrets` sign browser tokens, the first one; all are believed.
    """

    api_keys: Annotated[Mapping[str, str], BeforeValidator(lambda value: _parse_keys(value))] = Field(
        default_factory=dict, alias="API_KEYS", repr=False
    )
    allow_open: bool = Field(False, alias="ALLOW_OPEN")
    admin_token: SecretStr | None = Field(None, alias="ADMIN_TOKEN")
    cors_origins: Annotated[tuple[str, ...] | None, BeforeValidator(lambda value: _parse_origins(value))] = Field(
        None, alias="CORS_ORIGINS"
    )
    browser_token_secrets: Annotated[tuple[SecretStr, ...], BeforeValidator(lambda value: _parse_secrets(value))] = Field(
        (), alias="BROWSER_TOKEN_SECRET"
    )

    @model_validator(mode="after")
    def _fit(self) -> AccessSettings:
        if self.cors_origins == (EVERY_ORIGIN,) and not self.api_keys:
            raise ValueError("CORS_ORIGINS=* without API_KEYS opens the service to every page that is visited here: name the origins")
        if self.admin_token is not None and self.admin_token.get_secret_value() in self.api_keys:
            raise ValueError("ADMIN_TOKEN is also one of the API_KEYS: set another one, tenants do not operate the service")
        return self


class ModelSettings(_Settings):
    """Which models, and how long they are waited for.

    `roles` maps a role (`routing`, `reasoning` or a specialist) to a model of the provider, `limits` to what of its limits is configured.
    """

    api_key: SecretStr | None = Field(None, alias="OPENAI_API_KEY")
    base_url: HttpUrl | None = Field(None, alias="OPENAI_BASE_URL")
    roles: Mapping[str, str] = Field(default_factory=dict)
    limits_of_all: Annotated[Mapping[str, float], BeforeValidator(lambda value: _parse_limits(value))] = Field(
        default_factory=dict, alias="LIMITS"
    )
    limits_of_roles: Mapping[str, Mapping[str, float]] = Field(default_factory=dict)
    fallback: str | None = Field(None, alias="MODEL_FALLBACK")
    fallback_base_url: HttpUrl | None = Field(None, alias="FALLBACK_BASE_URL")
    fallback_api_key: SecretStr | None = Field(None, alias="FALLBACK_API_KEY")

    @property
    def is_offline(self) -> bool:
        """Whether no provider is configured, so that the offline model answers."""
        return self.api_key is None and self.base_url is None

    @property
    def limits(self) -> Overrides:
        """What is configured of the limits, by role; "" is all roles."""
        return {"": self.limits_of_all, **self.limits_of_roles}

    @field_validator("limits_of_roles", mode="before")
    @classmethod
    def _read(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        read = {}
        for role, limits in given.items():
            try:
                read[role] = _parse_limits(limits)
            except ValueError as exc:
                raise ValueError(f"LIMITS_{role.upper()}: {exc}") from None
        return read

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
    """What protects the service, how long a run may take, seconds, and which faults to inject on purpose."""

    deadline: float = Field(60.0, alias="DEADLINE_SECONDS", gt=0.0)
    maximum_deadline: float = Field(600.0, alias="MAX_DEADLINE_SECONDS", gt=0.0)
    background_deadline: float = Field(3600.0, alias="BACKGROUND_DEADLINE_SECONDS", gt=0.0)
    breaker_open_time: float = Field(30.0, alias="BREAKER_OPEN_SECONDS", gt=0.0, le=3600.0)
    slow_model_call: float = Field(5.0, alias="BREAKER_SLOW_SECONDS", ge=0.0)
    requests_per_minute: int | None = Field(None, alias="RATE_LIMIT_RPM", ge=0, le=10**9)
    provider_limits: str = Field("", alias="PROVIDER_LIMITS")
    max_model_calls: int = Field(512, alias="MAX_MODEL_CALLS", ge=1, le=10_000)
    queue_share: float = Field(0.1, alias="QUEUE_SHARE", ge=0.0, le=100.0)
    off: Annotated[frozenset[PolicyName], BeforeValidator(lambda value: _parse_policies(value))] = Field(
        frozenset(), alias="RESILIENCE_OFF"
    )
    chaos: Annotated[ChaosPlan | None, BeforeValidator(lambda value: _parse_chaos(value))] = Field(None, alias="CHAOS_PLAN")

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

    @property
    def requests_per_minute(self) -> int:
        """How many runs one API key may ask for per minute; 0: as many as it likes, the default where nobody else can call."""
        is_private = self.server.is_loopback and not self.access.api_keys
        given = self.guards.requests_per_minute
        return given if given is not None else 0 if is_private else DEFAULT_REQUESTS_PER_MINUTE

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
        limits = {name.removeprefix("LIMITS_").lower(): value for name, value in given.items() if name.startswith("LIMITS_")}
        try:
            return cls(
                server=ServerSettings.model_validate(given),
                storage=StorageSettings.model_validate(given),
                access=AccessSettings.model_validate(given),
                models=ModelSettings.model_validate({**given, "roles": roles, "limits_of_roles": limits}),
                tracing=TracingSettings.model_validate(given),
                runs=RunSettings.model_validate(given),
                guards=GuardSettings.model_validate(given),
            )
        except ValidationError as exc:
            raise SettingsError("\n".join(_line(dict(error)) for error in exc.errors())) from None

    @classmethod
    def variables(cls) -> frozenset[str]:
        """The fixed names that are read; `MODEL_<ROLE>` and `LIMITS_<ROLE>` come on top."""
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


def _parse_origins(value: Any) -> Any:
    """`https://shop.example,http://localhost:3000` or `*` as a tuple."""
    if not isinstance(value, str):
        return value
    origins = tuple(dict.fromkeys(origin.strip().lower() for origin in value.split(",")))
    wrong = [origin for origin in origins if not _ORIGIN.fullmatch(origin) and origins != (EVERY_ORIGIN,)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no origin; write scheme://host or scheme://host:port without a path, or * alone")
    return origins


def _parse_secrets(value: Any) -> Any:
    """`new,old` as a tuple."""
    if not isinstance(value, str):
        return value
    secrets = tuple(secret.strip() for secret in value.split(","))
    if any(len(secret) < LEAST_SECRET for secret in secrets):
        raise ValueError(f"needs at least {LEAST_SECRET} characters; `openssl rand -hex 32` makes a good one")
    return tuple(map(SecretStr, secrets))


def _parse_limits(value: Any) -> Any:
    """`connect=1,first_token=3` as a mapping."""
    if not isinstance(value, str):
        return value
    limits: dict[str, float] = {}
    for entry in value.split(","):
        name, _, seconds = (part.strip() for part in entry.partition("="))
        if name not in LIMITS:
            raise ValueError(f"there is no limit {name!r}; write name=seconds, the names being {', '.join(LIMITS)}")
        try:
            limits[name] = float(seconds)
        except ValueError:
            raise ValueError(f"{name} must be a number of seconds") from None
    return limits


def _parse_policies(value: Any) -> Any:
    """`breaker,retry` as a set."""
    if not isinstance(value, str):
        return value
    names = [name.strip() for name in value.split(",")]
    unknown = sorted(set(names) - set(PolicyName))
    if unknown:
        raise ValueError(f"there is no policy {unknown[0]!r}; there are: {', '.join(PolicyName)}")
    return frozenset(map(PolicyName, names))


def _parse_chaos(value: Any) -> Any:
    """JSON, or the path of a file with JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value if value.startswith("{") else Path(value).read_text("utf-8"))
    except OSError as exc:
        raise ValueError(f"must be a JSON object or the path of a file that holds one; reading it failed: {exc.strerror}") from None
    except ValueError as exc:  # not JSON, or not even text
        raise ValueError(f"is no JSON: {exc}") from None


def _line(error: dict[str, Any]) -> str:
    """One fault in words; the value is left out, since it may be a secret."""
    message = str(error["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in error["loc"] if part != "limits_of_roles")  # its text begins with the variable
    return f"{where}: {message}" if where else message
