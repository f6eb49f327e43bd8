"""The checkpoint saver: LangGraph's state in any Redis since 6.2, one atomic round trip per operation (ADR-0006)."""

from __future__ import annotations

import copy
import secrets
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn, TypedDict, cast

import ormsgpack
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_id,
    get_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from app.storage.redis import checkpoint_scripts as lua
from app.storage.redis.connection import guarded
from app.storage.redis.keys import TenantKeys, ThreadKeys

_PAGE = 32  # checkpoints per round trip of a list
_CHUNK = 1000  # fields per command of a copy


@dataclass(frozen=True, slots=True)
class Fence:
    """A permission to write: it holds while the string at `key`, a key of the same thread, is `token`."""

    key: str
    token: str


class Header(TypedDict):
    """What the scripts have to know of a checkpoint: its parent's id, its run, its channels, which of them are deltas."""

    parent: str
    run: str
    versions: ChannelVersions
    delta: list[str]


class RedisSaver(BaseCheckpointSaver[str]):
    """Checkpoints of one tenant in Redis; asynchronous only, safe to share between tasks.

    Values of channels are stored once per version, so a checkpoint costs what has changed. All of a thread expires
    together, `ttl` after the last write.

    Args:
        client: From `connection.connect`.
        serde: Default: MessagePack that revives only the types LangGraph calls safe; LangChain's messages are among them.
        tenant: Whose threads these are.
        ttl: Seconds; None: threads stay until they are deleted.

    Raises:
        StorageUnavailable: From every method; an outage never looks like an empty thread.
        LeaseLost: From `aput` and `aput_writes` of a saver that was bound to a fence.
    """

    def __init__(
        self, client: Redis, serde: SerializerProtocol | None = None, *, tenant: str = "default", ttl: float | None = None
    ) -> None:
        super().__init__(serde=serde or JsonPlusSerializer(allowed_msgpack_modules=None))
        self._client = client
        self._tenant = tenant
        self._ttl_ms = "" if ttl is None else str(max(1, round(ttl * 1000)))
        self._fence: Fence | None = None
        self._put = client.register_script(lua.PUT)
        self._put_writes = client.register_script(lua.PUT_WRITES)
        self._get = client.register_script(lua.GET)
        self._list = client.register_script(lua.LIST)
        self._delta_history = client.register_script(lua.DELTA_HISTORY)
        self._sweep = client.register_script(lua.SWEEP)

    def bind(self, *, tenant: str, fence: Fence | None = None) -> RedisSaver:
        """The same saver for one run: of this tenant, and writing only while `fence` holds."""
        bound = copy.copy(self)
        bound._tenant = tenant
        bound._fence = fence
        return bound

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, else the latest; None: there is none."""
        thread_id, ns = _thread_id(config), _namespace(config)
        found = await self._run(self._get, thread_id, [_part(ns), _part(get_checkpoint_id(config) or "")])
        return self._tuple(thread_id, found) if found else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, newest first within a thread; without `config` those of all the tenant's threads (a SCAN)."""
        settings = config["configurable"] if config else {}
        ns, only = settings.get("checkpoint_ns"), settings.get("checkpoint_id") or ""
        until = (get_checkpoint_id(before) if before else None) or ""
        scope = ["all" if ns is None else "one", _part(ns or ""), _part(only), _part(until)]
        left = limit
        for thread_id in [_thread_id(config)] if config else await self._threads():
            cursor = b""
            while left is None or left > 0:
                size = _PAGE if filter or left is None else min(left, _PAGE)
                page = await self._run(self._list, thread_id, [*scope, cursor, size])
                for found in page:
                    item = self._tuple(thread_id, found, filter or {})
                    if item and (left is None or left > 0):
                        left = None if left is None else left - 1
                        yield item
                if len(page) < size:
                    break
                cursor = b"c\0%s\0%s" % (page[-1][0], page[-1][1])

    async def aput(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """Store a checkpoint and the channel values that are new in it."""
        thread_id, ns = _thread_id(config), _namespace(config)
        body = cast(dict[str, Any], checkpoint.copy())
        values, versions = body.pop("channel_values"), body.pop("channel_versions")
        full = get_checkpoint_metadata(config, metadata)
        header: Header = {
            "parent": _part(get_checkpoint_id(config) or ""),
            "run": str(full.get("run_id") or ""),
            "versions": versions,
            "delta": list(full.get("counters_since_delta_snapshot") or ()),
        }
        rest = (*self.serde.dumps_typed(body), *self.serde.dumps_typed(full))
        name = _field("c", ns, checkpoint["id"])
        args: list[str | bytes] = [name, name, ormsgpack.packb(header), _field("d", ns, checkpoint["id"]), ormsgpack.packb(rest)]
        for channel, version in new_versions.items():
            if channel in values:
                kind, data = self.serde.dumps_typed(values[channel])
                args += (f"b\0{_part(ns)}\0{channel}\0{_version(version)}", b"%s\0%s" % (kind.encode(), data))
        await self._write(self._put, thread_id, args)
        return _config(thread_id, ns, checkpoint["id"])

    async def aput_writes(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        """Store what a task wrote on top of a checkpoint; a task that is run again keeps what it wrote first."""
        args: list[str | bytes] = []
        for position, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, position)
            field = _field("w", _namespace(config), config["configurable"]["checkpoint_id"], task_id, str(idx))
            kind, data = self.serde.dumps_typed(value)
            args += ("HSETNX" if idx >= 0 else "HSET", field, f"{channel}\0{task_path}\0{kind}\0".encode() + data)
        await self._write(self._put_writes, _thread_id(config), args)

    async def adelete_thread(self, thread_id: str) -> None:
        """Forget a thread."""
        keys = self._keys(thread_id)
        with guarded():
            await self._client.unlink(*keys)

    async def adelete_for_runs(self, run_ids: Sequence[str], *, thread_id: str | None = None) -> None:
        """Forget the checkpoints of some runs: on one thread, or wherever they are (a SCAN of the tenant's threads)."""
        for thread in await self._threads() if thread_id is None else [thread_id]:
            await self._run(self._sweep, thread, ["runs", *map(str, run_ids)])

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Thin out threads: `keep_latest` leaves one checkpoint per namespace (and what its delta channels need), `delete` none."""
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"unknown strategy {strategy!r}: use 'keep_latest' or 'delete'")
        for thread_id in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread_id)
            else:
                await self._run(self._sweep, thread_id, ["latest"])

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Add all of one thread to another. One read and one write: the two may live in different slots."""
        source, target = self._keys(source_thread_id), self._keys(target_thread_id)
        with guarded():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hgetall(source[0])
                pipe.zrange(source[1], 0, -1)
                fields, names = await pipe.execute()
            if not names:
                return
            async with self._client.pipeline(transaction=True) as pipe:
                for chunk in _chunks(list(fields)):
                    pipe.hset(target[0], mapping={name: fields[name] for name in chunk})
                for chunk in _chunks(names):
                    pipe.zadd(target[1], dict.fromkeys(chunk, 0))
                if self._ttl_ms:
                    for key in target:
                        pipe.pexpire(key, int(self._ttl_ms))
                await pipe.execute()

    async def aget_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        """What the ancestors of a checkpoint wrote to each channel since its last stored value, oldest first."""
        if not channels:
            return {}
        args = [_part(_namespace(config)), _part(get_checkpoint_id(config) or ""), *channels]
        steps, seeds = await self._run(self._delta_history, _thread_id(config), args)
        history: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
        for step in reversed(steps):
            for write in self._writes(step):
                history[write[1]]["writes"].append(write)
        for name, value in self._values(seeds).items():
            history[name]["seed"] = value
        return history

    def get_next_version(self, current: str | None, channel: None) -> str:
        """A later version; its random end keeps the branches of a fork apart."""
        counter = 0 if current is None else int(str(current).partition(".")[0])
        return f"{counter + 1:010}.{secrets.token_hex(4)}"

    def _async_only(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("RedisSaver is asynchronous: use ainvoke, astream, aget_state, aupdate_state")

    get_tuple = list = put = put_writes = delete_thread = get_delta_channel_history = _async_only

    def _keys(self, thread_id: str) -> tuple[str, str]:
        keys = ThreadKeys(self._tenant, str(thread_id))
        return keys.checkpoints(), keys.checkpoint_index()

    async def _threads(self) -> Collection[str]:
        pattern = TenantKeys(self._tenant).every_checkpoint_index()
        with guarded():
            return {ThreadKeys.thread_id_of(key.decode()) async for key in self._client.scan_iter(match=pattern, count=1000)}

    async def _run(self, script: AsyncScript, thread_id: str, args: Sequence[str | bytes | int]) -> Any:
        with guarded():
            return await script(keys=self._keys(thread_id), args=args)

    async def _write(self, script: AsyncScript, thread_id: str, args: Sequence[str | bytes]) -> None:
        lease, token = ((self._fence.key,), self._fence.token) if self._fence else ((), "")
        with guarded():
            await script(keys=(*self._keys(thread_id), *lease), args=[token, self._ttl_ms, *args])

    def _tuple(self, thread_id: str, found: Sequence[Any], wanted: Mapping[str, Any] = MappingProxyType({})) -> CheckpointTuple | None:
        ns, checkpoint_id = _unpart(found[0]), _unpart(found[1])
        header: Header = ormsgpack.unpackb(found[2])
        kind, data, metadata_kind, metadata_data = ormsgpack.unpackb(found[3])
        metadata = self.serde.loads_typed((metadata_kind, metadata_data))
        if any(metadata.get(key) != value for key, value in wanted.items()):
            return None
        body = self.serde.loads_typed((kind, data))
        return CheckpointTuple(
            config=_config(thread_id, ns, checkpoint_id),
            checkpoint=cast(Checkpoint, body | {"channel_versions": header["versions"], "channel_values": self._values(found[4])}),
            metadata=metadata,
            parent_config=_config(thread_id, ns, _unpart(header["parent"])) if header["parent"] else None,
            pending_writes=list(self._writes(found[5])),
        )

    def _values(self, flat: Sequence[bytes]) -> dict[str, Any]:
        values = {}
        for channel, blob in zip(flat[::2], flat[1::2], strict=True):
            kind, _, data = blob.partition(b"\0")
            values[channel.decode()] = self.serde.loads_typed((kind.decode(), data))
        return values

    def _writes(self, flat: Sequence[bytes]) -> Sequence[PendingWrite]:
        keyed = []
        for field, packed in zip(flat[::2], flat[1::2], strict=True):
            _, _, _, task, idx = field.split(b"\0")
            channel, path, kind, data = packed.split(b"\0", 3)
            write = (_unpart(task), channel.decode(), self.serde.loads_typed((kind.decode(), data)))
            keyed.append((writes_sort_key(path.decode(), write[0], int(idx)), write))
        return [write for _, write in sorted(keyed, key=lambda entry: entry[0])]


def _thread_id(config: RunnableConfig) -> str:
    return str(config["configurable"]["thread_id"])


def _namespace(config: RunnableConfig) -> str:
    return str(config["configurable"].get("checkpoint_ns", ""))


def _config(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}


def _part(text: str) -> str:
    """A part of a field's name: free of NUL, and sorted as `text` is."""
    return text.replace("%", "%25").replace("\0", "%00")


def _unpart(part: bytes | str) -> str:
    return (part if isinstance(part, str) else part.decode()).replace("%00", "\0").replace("%25", "%")


def _field(*parts: str) -> str:
    return "\0".join(map(_part, parts))


def _version(version: str | int | float) -> str:
    """As Lua prints it; ours are strings, other savers had numbers."""
    return version if isinstance(version, str) else f"{version:.14g}"


def _chunks(names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK))
