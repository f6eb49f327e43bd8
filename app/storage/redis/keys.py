"""Every key in Redis, named in one place.

A thread's keys look like `acme:{thread}:lease`: the tenant stands in front, so tenants never meet, and the thread is
the hash tag, so that a cluster keeps all of a thread in one slot and one script can change it atomically (design D4).
Keys without a tag cross threads; they are written second and can be rebuilt. So are those of a tenant's index of threads, whose tag
is the tenant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import quote, unquote

_NOTHING = "%"  # stands for the empty id, since an empty hash tag is no tag; no encoded text looks like it


def encode(text: str) -> str:
    """`text` in the alphabet `A-Za-z0-9_.-~%`, so without colons and braces; `decode` turns it back."""
    return quote(text, safe="", errors="surrogatepass")


def decode(part: str) -> str:
    """The text that `encode` was given."""
    return unquote(part, errors="surrogatepass")


WORK = "capataz:work"
"""Stream: runs that wait for a process to execute them; a tenant's keys never have this name (`TenantKeys`)."""
BATCH_WORK = "{capataz:work}:batch"
"""Stream: the same of runs that may wait; the tag is the other stream's name, so that one command can read both in a cluster."""
OPEN = "capataz:open"
"""Sorted set: threads with runs that have not ended, by the time of the reaper's next look."""
DELAYED = "capataz:delayed"
"""Sorted set: runs that are to begin later, by that time."""
NOTICES = "capataz:notices"
"""Channel: runs that were ended from outside."""
BREAKERS = "capataz:breakers"
"""Hash: what the processes tell each other of their breakers, by dependency."""
CRONS_DUE = "capataz:{crons}:due"
"""Sorted set: crons of all tenants that have a next tick, by the time when a process should look at it (milliseconds)."""
EVERY_QUEUE = "*:{*}:queue"
"""Pattern for SCAN: `ThreadKeys.queue` of all threads of all tenants."""
EVERY_THREAD = "*:{*}:thread"
"""Pattern for SCAN: `ThreadKeys.thread` of all threads of all tenants."""
LAPSING = "capataz:lapsing"
"""Sorted set: threads by the time at which their time to live may be over."""
SWEPT = "capataz:swept"
"""String: there while it is not long ago that some process compared all threads with the index."""


def provider_rate(provider: str, name: str, unit: str) -> str:
    """String: one token bucket of a model provider, which all tenants share; a provider's buckets have one hash slot."""
    return f"capataz:rate:{{{encode(provider)}}}:{encode(name)}:{unit}"


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """The keys of a tenant that belong to no thread."""

    tenant: str

    def threads(self, word: str, order: str) -> str:
        """Sorted set: the tenant's threads that `word` fits, in one order; all of these have one hash slot, the tenant's."""
        return f"{self.thread_index()}:{word}:{order}"

    def thread_index(self) -> str:
        """Hash: which words fit each of the tenant's threads, as far as the index knows; the sorted sets' names begin with this one's."""
        return f"{encode(self.tenant)}:{{{encode(self.tenant) or _NOTHING}}}:threads"

    def idempotency(self, key: str) -> str:
        """String: the run that an idempotency key has started."""
        return f"{encode(self.tenant)}:idempotency:{encode(key)}"

    def rate(self, key_id: str) -> str:
        """String: the token bucket of one API key, by its digest."""
        return f"{encode(self.tenant)}:rate:{encode(key_id)}"

    def answer(self, key: str) -> str:
        """String: an answer that may be given again."""
        return f"{encode(self.tenant)}:answer:{key}"

    def assistants(self) -> str:
        """Hash: the tenant's assistants by id; all keys of a tenant's assistants have one hash slot."""
        return f"{encode(self.tenant)}:{{{encode(self.tenant)}:assistants}}:latest"

    def assistant_versions(self, assistant_id: str) -> str:
        """Hash: the versions of one assistant by number, and in `last` the number of the newest."""
        return f"{encode(self.tenant)}:{{{encode(self.tenant)}:assistants}}:versions:{encode(assistant_id)}"

    def every_checkpoint_index(self) -> str:
        """Pattern for SCAN: `ThreadKeys.checkpoint_index` of all threads of this tenant."""
        return f"{encode(self.tenant)}:{{*}}:checkpoint-index"


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """The keys of a tenant's store, all in one hash slot; a thread's tag has no colon, so the two never meet."""

    tenant: str

    def index(self) -> str:
        """Sorted set, by name: every item, as its namespace and key."""
        return self._key("index")

    def expiry(self) -> str:
        """Sorted set: the items that expire, by that time (milliseconds)."""
        return self._key("expiry")

    def item(self) -> str:
        """Hash: one item; its name in the index follows, as it is."""
        return self._key("item:")

    def _key(self, name: str) -> str:
        return f"{encode(self.tenant)}:{{{encode(self.tenant)}:store}}:{name}"


@dataclass(frozen=True, slots=True)
class CronKeys:
    """The keys of a tenant's crons; those of all tenants are in one hash slot, so that one script can claim what is due."""

    tenant: str

    def crons(self) -> str:
        """Sorted set: ids of the tenant's crons, by the time of their creation."""
        return f"{encode(self.tenant)}:{{crons}}:crons"

    def cron(self, cron_id: str) -> str:
        """Hash: the record of one cron."""
        return f"{encode(self.tenant)}{CRON_INFIX}{encode(cron_id)}"


CRON_INFIX = ":{crons}:cron:"
"""What stands between the tenant and the id in `CronKeys.cron`, for the script that claims over all tenants."""


@dataclass(frozen=True, slots=True)
class ThreadKeys:
    """The keys of one thread, all in one hash slot.

    Args:
        tenant: Whose thread it is.
        thread_id: Any text.
    """

    tenant: str
    thread_id: str

    def thread(self) -> str:
        """Hash: the thread's record."""
        return self._key("thread")

    def run(self, run_id: str) -> str:
        """Hash: the record of one run."""
        return self._key(f"run:{encode(run_id)}")

    def runs(self) -> str:
        """Sorted set: ids of the thread's runs, by the time of their creation."""
        return self._key("runs")

    def events(self, run_id: str) -> str:
        """Stream: the event log of one run."""
        return self._key(f"events:{encode(run_id)}")

    def lease(self) -> str:
        """String: the fencing token of whoever executes on the thread."""
        return self._key("lease")

    def fence(self) -> str:
        """Counter: the last fencing token that was given out."""
        return self._key("fence")

    def sequence(self) -> str:
        """Counter: the last sequence number of the thread's events."""
        return self._key("sequence")

    def queue(self) -> str:
        """List: ids of the runs that have not ended, in their order; the first one executes."""
        return self._key("queue")

    def purge(self) -> str:
        """List: ids of rolled-back runs whose checkpoints are still there."""
        return self._key("purge")

    def outbox(self) -> str:
        """List: ids of ended runs whose webhook nobody has taken over yet."""
        return self._key("outbox")

    def checkpoints(self) -> str:
        """Hash: checkpoints, channel values and pending writes of the thread."""
        return self._key("checkpoints")

    def checkpoint_index(self) -> str:
        """Sorted set, by name: what `checkpoints` holds."""
        return self._key("checkpoint-index")

    def all(self) -> list[str]:
        """What the scripts of a thread take as `KEYS`: every key, and what those of runs and logs begin with. Their order is `UNPACK`."""
        names = [self.thread(), self.queue(), self.lease(), self.fence(), self.runs(), self.sequence(), self.purge(), self.outbox()]
        return [*names, self.checkpoints(), self.checkpoint_index(), self.run(""), self.events("")]

    UNPACK: ClassVar[str] = """
local thread, queue, lease, fence, runs, sequence, purge, outbox, checkpoints, index, run_prefix, log_prefix = unpack(KEYS)
"""
    """The first line of those scripts."""

    @staticmethod
    def thread_id_of(key: str) -> str:
        """The thread id that a key of a thread was made of."""
        tag = key[key.index("{") + 1 : key.index("}")]
        return "" if tag == _NOTHING else decode(tag)

    def _key(self, name: str) -> str:
        return f"{encode(self.tenant)}:{{{encode(self.thread_id) or _NOTHING}}}:{name}"
