"""Sends webhooks: signed, to the public internet only, again after a failure, at least once (ADR-0014)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Literal

import httpx

from app.runs.public_http import AddressRefused, AllowedHosts, PublicOnlyTransport, Resolve, connecting, host_of, resolve
from app.runs.webhooks import WebhookSecrets, sign
from app.storage.errors import StorageError
from app.storage.redis.webhooks import ClaimedWebhook, Webhook, WebhookOutbox
from app.telemetry.logging import get_logger
from resilience.retry import backoff

TIMEOUT = 10.0
"""Longest time from looking up the host to the head of the answer, seconds."""
ATTEMPTS = 5
FIRST_WAIT = 80.0
"""Upper bound of the first wait, seconds; it doubles, so that the waits add up to ten minutes on average."""
LONGEST_WAIT = 640.0
CONCURRENCY = 64
SHARE = 4
"""Most deliveries of one tenant at once."""
POLL = 0.5
"""How often a sender looks for what is due, seconds."""

EventKind = Literal["delivered", "failed", "dead"]


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """What became of one attempt, for metrics.

    Args:
        kind: `failed` will be tried again, `dead` will not.
        tenant: Whose run it was.
        run_id: The run.
        attempt: Number of the attempt, from 1.
        why: Reason of a failure, a stable word: `timeout`, `unreachable`, `address_refused`, `status_500`…
    """

    kind: EventKind
    tenant: str
    run_id: str
    attempt: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Failure:
    why: str
    is_final: bool = False
    retry_after: float | None = None


class WebhookSender:
    """Sends what is due in the outbox; every process that executes runs has one, and they share the work.

    Args:
        outbox: What is to be sent.
        secrets: What to sign with.
        allowed: Hosts that need not be public.
        listener: Hears of every attempt.
        timeout: Longest attempt, seconds; shorter than the outbox's lease.
        poll: How often to look for what is due, seconds.
        resolve: Finds the addresses of hosts.
        rng: Source of the jitter.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        outbox: WebhookOutbox,
        secrets: WebhookSecrets,
        *,
        allowed: AllowedHosts | None = None,
        listener: Callable[[WebhookEvent], None] | None = None,
        timeout: float = TIMEOUT,
        poll: float = POLL,
        resolve: Resolve = resolve,
        rng: Random | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._secrets = secrets
        self._transport = PublicOnlyTransport(connecting(), allowed or AllowedHosts(), resolve)
        self._tell = listener or (lambda event: None)
        self._timeout = timeout
        self._poll = poll
        self._rng = rng or Random()
        self._now = now
        self._busy: Counter[str] = Counter()

    async def run(self) -> None:
        """Send until cancelled. What is under way then is sent again, under the same id, once its claim has ended."""
        task = asyncio.current_task()
        async with self._transport, asyncio.TaskGroup() as deliveries:
            while True:
                for claimed in await self._claim():
                    self._busy[claimed.webhook.tenant] += 1
                    deliveries.create_task(self._deliver(claimed))
                # redis-py awaits its writes with wait_for, which in Python 3.11 can lose a cancellation.
                if task is not None and task.cancelling():
                    raise asyncio.CancelledError
                await asyncio.sleep(self._poll)

    async def _claim(self) -> list[ClaimedWebhook]:
        try:
            return await self._outbox.claim(limit=CONCURRENCY - self._busy.total(), share=SHARE, busy=+self._busy)
        except StorageError as exc:
            get_logger().warning("webhooks_not_claimed", code=exc.code)
            return []

    async def _deliver(self, claimed: ClaimedWebhook) -> None:
        webhook = claimed.webhook
        try:
            await self._settle(claimed, await self._attempt(claimed))
        except StorageError as exc:
            get_logger().warning("webhook_not_settled", run_id=webhook.run_id, code=exc.code)
        except Exception:
            get_logger().exception("webhook_not_settled", run_id=webhook.run_id, code="internal_error")
        finally:
            self._busy[webhook.tenant] -= 1

    async def _attempt(self, claimed: ClaimedWebhook) -> _Failure | None:
        """Send it once; None: it arrived."""
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._transport.handle_async_request(self._request(claimed.webhook))
                # The head says it all. The body is not read: it may be endless, and it is nobody's business here.
                await response.aclose()
        except AddressRefused:
            return _Failure("address_refused", is_final=True)
        except TimeoutError:
            return _Failure("timeout")
        except httpx.HTTPError:
            return _Failure("unreachable")
        except Exception:
            get_logger().exception("webhook_failed", run_id=claimed.webhook.run_id)
            return _Failure("internal_error")
        if response.is_success:
            return None
        return _Failure(f"status_{response.status_code}", response.status_code == httpx.codes.GONE, _retry_after(response))

    def _request(self, webhook: Webhook) -> httpx.Request:
        webhook_id, now = f"msg_{webhook.run_id}", self._now()
        sent_at = datetime.fromtimestamp(now, UTC).isoformat().encode()
        body = b'%s,"webhook_sent_at":"%s"}' % (webhook.body.removesuffix(b"}"), sent_at)
        headers = {
            "content-type": "application/json",
            "user-agent": "capataz",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": " ".join(sign(secret, webhook_id, int(now), body) for secret in self._secrets.of(webhook.tenant)),
        }
        return httpx.Request("POST", webhook.url, headers=headers, content=body)

    async def _settle(self, claimed: ClaimedWebhook, failure: _Failure | None) -> None:
        webhook = claimed.webhook
        kind: EventKind
        if failure is None:
            kind, is_ours = "delivered", await self._outbox.delivered(claimed)
        elif failure.is_final or claimed.attempt >= ATTEMPTS:
            kind, is_ours = "dead", await self._outbox.bury(claimed, failure.why)
        else:
            kind, is_ours = "failed", await self._outbox.retry(claimed, self._wait(claimed.attempt, failure))
        if not is_ours:
            return
        why = failure.why if failure else ""
        # Paths and queries of such URLs often hold a secret, so only the host is logged.
        fields = {"run_id": webhook.run_id, "host": host_of(httpx.URL(webhook.url)), "attempt": claimed.attempt, "why": why}
        (get_logger().error if kind == "dead" else get_logger().info)(f"webhook_{kind}", **fields)
        self._tell(WebhookEvent(kind, webhook.tenant, webhook.run_id, claimed.attempt, why))

    def _wait(self, attempt: int, failure: _Failure) -> float:
        if failure.retry_after is not None:
            return min(failure.retry_after, LONGEST_WAIT)
        return backoff(attempt, base=FIRST_WAIT, cap=LONGEST_WAIT, rng=self._rng)


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
