"""Which models answer for which role, in which order, and how long they are waited for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial

from pydantic import SecretStr

from agents.models.adapter import LangChainModel
from agents.models.gateway import DEFAULT_ROLE
from agents.models.limits import ModelLimits, limits_of
from agents.models.offline import OFFLINE, OfflineChatModel
from agents.models.openai import openai_model
from agents.models.port import ChatModel
from agents.registry import SpecialistRegistry
from app.settings import DEFAULT_MODEL, ModelSettings, SettingsError

ROUTING_ROLES = frozenset({"routing", DEFAULT_ROLE})


def model_limits(settings: ModelSettings, specialists: SpecialistRegistry) -> Mapping[str, ModelLimits]:
    """How long each role waits for its models.

    Raises:
        SettingsError: Limits are set for a role that does not exist, or are no times.
    """
    _check_roles("LIMITS", settings.limits_of_roles, specialists)
    try:
        return limits_of({**dict.fromkeys(sorted(ROUTING_ROLES)), **specialists}, settings.limits)
    except ValueError as exc:
        raise SettingsError(f"LIMITS or LIMITS_<ROLE>: {exc}") from None


def model_chains(settings: ModelSettings, specialists: SpecialistRegistry) -> Mapping[str, tuple[ChatModel, ...]]:
    """For each role the models to ask, in the order of preference; the last that routes needs no provider.

    Raises:
        SettingsError: A model is set for a role that does not exist.
    """
    roles = sorted(ROUTING_ROLES | set(specialists))
    _check_roles("MODEL", settings.roles, specialists)
    if settings.is_offline:
        return {role: (_offline_model(role),) for role in roles}
    key = settings.api_key or SecretStr("none")  # servers that need no key still get the header
    limits = model_limits(settings, specialists)
    # A provider, a model and limits: roles that have all three in common share one.
    make = cache(partial(openai_model, api_key=key, base_url=settings.base_url))
    chains: dict[str, tuple[ChatModel, ...]] = {}
    for role in roles:
        name = settings.roles.get(role) or settings.roles.get(DEFAULT_ROLE) or DEFAULT_MODEL
        chains[role] = (make(name, limits=limits[role]),)
        if settings.fallback:
            base_url = settings.fallback_base_url or settings.base_url
            chains[role] += (make(settings.fallback, limits=limits[role], api_key=settings.fallback_api_key or key, base_url=base_url),)
    return {**chains, "routing": (*chains["routing"], _offline_model("routing"))}


def _offline_model(role: str) -> ChatModel:
    return LangChainModel(OfflineChatModel(role=role), name=OFFLINE, provider=OFFLINE)


def _check_roles(prefix: str, given: Iterable[str], specialists: SpecialistRegistry) -> None:
    roles = ROUTING_ROLES | set(specialists)
    for role in sorted(set(given) - roles):
        known = ", ".join(f"{prefix}_{role.upper()}" for role in sorted(roles))
        raise SettingsError(
            f"{prefix}_{role.upper()} names no role; there are: {known}" + (", MODEL_FALLBACK" if prefix == "MODEL" else "")
        )
