"""A process that uses the embedded Redis of a directory: runs the commands it reads, line by line, until its input ends.

python -m tests.support.embedded_user DATA_DIR
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from redis.asyncio import Redis

from app.storage.redis.connection import connect
from app.storage.redis.embedded import EmbeddedRedis
from app.telemetry.logging import configure


async def answer(command: list[str], client: Redis) -> object:
    if command == ["CHILD"]:  # a process that outlives this one
        return (await asyncio.create_subprocess_exec("sleep", "60")).pid
    if command == ["PID"]:
        return (await client.info("server"))["process_id"]
    result = await client.execute_command(*command)
    return result.decode() if isinstance(result, bytes) else result


async def main() -> None:
    configure(stream=sys.stderr)
    async with EmbeddedRedis(Path(sys.argv[1])) as embedded:
        client = connect(embedded.url)
        while line := await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(f"{await answer(line.split(), client)}\n")
            sys.stdout.flush()
        await client.aclose()


if __name__ == "__main__":
    asyncio.run(main())
