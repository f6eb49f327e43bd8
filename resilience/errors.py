"""The errors of this package, and the kinds that adapters translate into.

    ResilienceError             a policy's own decision
    ├── Rejected                we did not try
    │   ├── CircuitOpen         the dependency's breaker is open or isolated
    │   ├── BulkheadFull        too many calls are under way
    │   ├── RateLimited         too many calls per time
    │   └── Overloaded          it would have to wait longer than it may
    ├── AttemptTimedOut         one attempt took too long
    └── DeadlineExceeded        nothing is left of the request's time
    DependencyError             what an adapter makes of a dependency's own error
    ├── TransientError          may work later: 5xx, connection, timeout
    │   └── Throttled           the dependency said "too many requests" (429): retried, never counted by a breaker
    └── PermanentError          will not work however often it is tried: our 4xx, a refusal, an exhausted quota

Every class has a stable `code`; it is part of the public interface. `is_illness` says whether the error is a sign that its dependency
is ill: a breaker counts those and no others.
"""


class ResilienceError(Exception):
    """A policy refused or gave up a call."""

    code = "resilience_error"
    is_illness = False

    def __init__(self, operation: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{operation}: {message}")
        self.operation = operation
        self.retry_after = retry_after


class Rejected(ResilienceError):
    """The call was not tried. Never retried, never counted against the dependency."""

    code = "rejected"


class CircuitOpen(Rejected):
    """The breaker of this dependency is open; `retry_after` says when it will let a probe through, in seconds."""

    code = "circuit_open"


class BulkheadFull(Rejected):
    """As many calls as this dependency may have are under way or waiting."""

    code = "bulkhead_full"


class RateLimited(Rejected):
    """The allowance for this time is used up; `retry_after` in seconds."""

    code = "rate_limited"


class Overloaded(Rejected):
    """The queue is so long that the call could not be served in time; `retry_after` in seconds."""

    code = "overloaded"


class AttemptTimedOut(ResilienceError):
    """One attempt was cancelled because it took longer than `seconds`."""

    code = "attempt_timed_out"
    is_illness = True

    def __init__(self, operation: str, seconds: float) -> None:
        super().__init__(operation, f"no result within {seconds:.3g} s")
        self.seconds = seconds


class DeadlineExceeded(ResilienceError):
    """Nothing is left of the request's time."""

    code = "deadline_exceeded"

    def __init__(self, operation: str) -> None:
        super().__init__(operation, "the deadline has passed")


class DependencyError(Exception):
    """A dependency failed; adapters raise its subclasses, with the original error as the cause."""

    code = "dependency_error"
    is_illness = False

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TransientError(DependencyError):
    """It may work later. `retry_after`: seconds the dependency asked us to wait, if it did."""

    code = "dependency_unavailable"
    is_illness = True


class Throttled(TransientError):
    """The dependency wants fewer calls."""

    code = "dependency_throttled"
    is_illness = False


class PermanentError(DependencyError):
    """Trying again cannot help."""

    code = "dependency_refused"
