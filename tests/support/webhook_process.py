"""A process that sends webhooks until it is killed; it believes that it is always the same time.

python -m tests.support.webhook_process REDIS_URL SECRET ALLOWED_HOST NOW
"""

from __future__ import annotations

import asyncio
import sys

from app.runs.public_http import AllowedHosts
from app.runs.webhook_sender import WebhookSender
from app.runs.webhooks import WebhookSecrets
from app.storage.redis.connection import connect
from app.storage.redis.webhooks import WebhookOutbox


async def main(redis_url: str, secret: str, host: str, now: str) -> None:
    outbox = WebhookOutbox(connect(redis_url), now=lambda: float(now))
    await WebhookSender(outbox, WebhookSecrets.parse(secret), allowed=AllowedHosts.parse(host), poll=0.01, timeout=60.0).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
