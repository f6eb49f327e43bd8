"""Who goes next where calls wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from resilience.context import Priority, Standing

W = TypeVar("W", bound=Hashable)


class FairQueue(Generic[W]):
    """Waiters in the order of their standing.

    Calls of requests under way go before all that begin something, urgent ones before others, tenants of one class take turns, and
    within a tenant it is first come, first served. Every operation costs at most one step per tenant that waits.
    """

    def __init__(self) -> None:
        # A class of urgency holds its tenants in the order of their turns; a tenant holds its waiters in the order of their coming.
        self._classes: dict[tuple[bool, Priority], OrderedDict[str, dict[W, None]]] = {
            (begins, priority): OrderedDict() for begins in (False, True) for priority in Priority
        }
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, waiter: W, standing: Standing) -> None:
        """`waiter` waits from now on; one that waits already must not come again."""
        self._classes[_urgency(standing)].setdefault(standing.tenant, {})[waiter] = None
        self._length += 1

    def remove(self, waiter: W, standing: Standing) -> bool:
        """`waiter` waits no more; whether it did."""
        tenants = self._classes[_urgency(standing)]
        if waiter not in tenants.get(standing.tenant, {}):
            return False
        del tenants[standing.tenant][waiter]
        if not tenants[standing.tenant]:
            del tenants[standing.tenant]
        self._length -= 1
        return True

    def pop(self) -> W:
        """The waiter whose turn it is, who waits no more.

        Raises:
            IndexError: Nobody waits.
        """
        for tenants in self._classes.values():
            if tenants:
                tenant, waiters = tenants.popitem(last=False)
                waiter = next(iter(waiters))
                del waiters[waiter]
                if waiters:
                    tenants[tenant] = waiters  # its next turn comes after everybody else's
                self._length -= 1
                return waiter
        raise IndexError("nobody waits")

    def has(self, standing: Standing) -> bool:
        """Whether somebody of the same class and tenant waits."""
        return standing.tenant in self._classes[_urgency(standing)]

    def ahead(self, standing: Standing, coming: Iterable[Standing] = ()) -> tuple[int, int]:
        """How many would go before a call of that standing that came now: those of requests under way, and those that begin one.

        Args:
            standing: Of the call that might come.
            coming: Of calls that are not in the queue yet, but will be there first.
        """
        urgency = _urgency(standing)
        before = {False: 0, True: 0}
        mine: dict[str, int] = {}
        for (begins, priority), tenants in self._classes.items():
            if (begins, priority) < urgency:
                before[begins] += sum(map(len, tenants.values()))
            elif (begins, priority) == urgency:
                mine = {tenant: len(waiters) for tenant, waiters in tenants.items()}
        for other in coming:
            if _urgency(other) < urgency:
                before[not other.is_under_way] += 1
            elif _urgency(other) == urgency:
                mine[other.tenant] = mine.get(other.tenant, 0) + 1
        own = mine.pop(standing.tenant, 0)
        before[urgency[0]] += own + sum(min(count, own + 1) for count in mine.values())
        return before[False], before[True]


def _urgency(standing: Standing) -> tuple[bool, Priority]:
    return not standing.is_under_way, standing.priority
