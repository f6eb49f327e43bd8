"""What the routes that create runs have in common: the headers that say how, and the one way from a body to a run."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Header, Request

from app.api.browser_scope import narrowed
from app.api.deps import Caller, CallerDep, Services, ServicesDep
from app.api.rate_limit import spend
from app.api.schemas import RunCreate, StatelessRunCreate
from app.errors import InvalidInput
from app.runs.acceptance import StartedRun
from app.runs.request import RunRequest
from app.storage.errors import StorageUnavailable
from resilience.context import Priority

LEAST_ACCEPTANCE = 1.0
"""How long accepting a run may always take, seconds: a shorter deadline is the run's own to miss."""

IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="The same key and body within 24 hours are the same run; another body is a 409."),
]
DeadlineMs = Annotated[
    int | None,
    Header(ge=1, description="Milliseconds from now within which the run must have ended. Default and maximum are the service's."),
]
PriorityName = Annotated[
    Literal["interactive", "default", "batch"] | None,
    Header(description="Who goes first where runs wait. Default: `batch` for runs in the background, else `default`."),
]


@dataclass(frozen=True, slots=True)
class NewRun:
    """A request that creates a run."""

    request: Request
    services: Services
    caller: Caller
    idempotency_key: str | None = None
    x_deadline_ms: int | None = None
    x_priority: str | None = None

    @property
    def tenant(self) -> str:
        """Whose run it will be."""
        return self.caller.tenant

    async def start(
        self, thread_id: UUID | None, body: RunCreate, *, streams: bool = True, is_background: bool = False, asked: str | None = None
    ) -> StartedRun:
        """Accept the run; see `RunService.start`. A caller who does not stream has nothing logged unless a mode was named.

        Args:
            thread_id: Where it executes; None: on a thread of its own.
            body: What is wanted.
            streams: Whether the caller reads its events.
            is_background: Whether nobody waits for it.
            asked: What an `Idempotency-Key` stands for, where that is not the body.

        Raises:
            TooManyRequests: The caller's key has used up its allowance. The same request again (`Idempotency-Key`) counts again.
            StorageUnavailable: The run was not accepted within its deadline, as far as is known.
        """
        try:
            async with asyncio.timeout(self._longest()) as limit:
                return await self._start(thread_id, body, streams=streams, is_background=is_background, asked=asked)
        except TimeoutError:
            if not limit.expired():
                raise
            raise StorageUnavailable("the run could not be written within its deadline") from None

    async def start_all(self, bodies: Sequence[StatelessRunCreate]) -> list[StartedRun]:
        """Accept runs in the background, all or none; see `RunService.start_all`. Each counts against the key's allowance.

        Raises:
            InvalidInput: They are more than the allowance ever is.
            TooManyRequests: The allowance has not that many left.
            StorageUnavailable: Not all were accepted within their deadline, as far as is known.
        """
        try:
            async with asyncio.timeout(self._longest()) as limit:
                return await self._start_all(bodies)
        except TimeoutError:
            if not limit.expired():
                raise
            raise StorageUnavailable("the runs could not be written within their deadline") from None

    async def _start_all(self, bodies: Sequence[StatelessRunCreate]) -> list[StartedRun]:
        rate = self.services.request_limit
        if rate is not None:
            if len(bodies) > rate.rate.allowance:
                raise InvalidInput(f"an API key may start {rate.rate.allowance} runs per minute; send fewer at once", "batch_too_large")
            await spend(rate, self.request, self.tenant, self.caller.key_id, len(bodies))
        wanted = [self.request_of(body, streams=False, is_background=True) for body in bodies]
        # One key stands for each of them in its place, so the same batch again is the same runs.
        keys = [self._idempotency(body) for body in bodies]
        numbered = [(f"{key[0]}/{i}", key[1]) for i, key in enumerate(keys) if key is not None]
        return await self.services.runs.start_all(self.tenant, wanted, idempotency=numbered)

    async def _start(self, thread_id: UUID | None, body: RunCreate, *, streams: bool, is_background: bool, asked: str | None) -> StartedRun:
        if self.services.request_limit is not None:
            await spend(self.services.request_limit, self.request, self.tenant, self.caller.key_id)
        permitted = narrowed(self.caller.browser, body) if self.caller.browser is not None else body
        wanted = self.request_of(permitted, streams=streams, is_background=is_background)
        thread = str(thread_id) if thread_id is not None else None
        return await self.services.runs.start(self.tenant, thread, wanted, idempotency=self._idempotency(body, asked))

    def _longest(self) -> float | None:
        """How long accepting the run may take, seconds; None: the storage's own limits are shorter than any default deadline."""
        return max(LEAST_ACCEPTANCE, self.x_deadline_ms / 1000) if self.x_deadline_ms is not None else None

    def request_of(self, body: RunCreate, *, streams: bool, is_background: bool) -> RunRequest:
        """What the body and the headers want.

        Raises:
            InvalidInput: The webhook cannot be told.
        """
        if body.webhook is not None:
            self.services.check_webhook(body.webhook, self.tenant)
        checkpoint_id = body.checkpoint_id or (body.checkpoint.checkpoint_id if body.checkpoint else None)
        usual = Priority.BATCH if is_background else Priority.DEFAULT
        return RunRequest(
            assistant_id=body.assistant_id,
            input=body.input,
            command=body.command.model_dump(exclude_unset=True) if body.command else None,
            metadata=dict(body.metadata or {}),
            stream_mode=tuple(body.stream_mode) if streams or "stream_mode" in body.model_fields_set else (),
            stream_subgraphs=body.stream_subgraphs,
            stream_resumable=body.stream_resumable,
            interrupt_before=_nodes(body.interrupt_before),
            interrupt_after=_nodes(body.interrupt_after),
            checkpoint_id=checkpoint_id,
            multitask_strategy=body.multitask_strategy,
            if_not_exists=body.if_not_exists,
            durability=body.durability,
            tags=tuple(body.config.tags),
            recursion_limit=body.config.recursion_limit,
            configurable=body.config.configurable,
            context=body.context or {},
            keep_thread=not isinstance(body, StatelessRunCreate) or body.on_completion == "keep",
            after=body.after_seconds,
            webhook=body.webhook or "",
            is_background=is_background,
            deadline=self.x_deadline_ms / 1000 if self.x_deadline_ms is not None else None,
            priority=Priority[self.x_priority.upper()] if self.x_priority is not None else usual,
        )

    def _idempotency(self, body: RunCreate, asked: str | None = None) -> tuple[str, str] | None:
        """The key and what it stands for: route and body, or `asked` in place of the body."""
        if self.idempotency_key is None:
            return None
        # Not pydantic's own JSON: it stumbles over half a surrogate pair, which is refused in words later.
        whole = f"{self.request.url.path}\n{asked or json.dumps(body.model_dump(mode='json', exclude_unset=True))}"
        return self.idempotency_key, hashlib.sha256(whole.encode()).hexdigest()


async def _new_run(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey = None,
    x_deadline_ms: DeadlineMs = None,
    x_priority: PriorityName = None,
) -> NewRun:
    return NewRun(request, services, caller, idempotency_key, x_deadline_ms, x_priority)


NewRunDep = Annotated[NewRun, Depends(_new_run)]


def _nodes(names: list[str] | str) -> tuple[str, ...] | str:
    return names if isinstance(names, str) else tuple(names)
