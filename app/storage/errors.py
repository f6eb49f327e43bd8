"""The errors of this package.

StorageError
├── StorageUnavailable   the store is down, slow, loading or full: nothing is known about what it holds
├── StorageUnsuitable    what is there cannot serve us: too old, or missing; an operator has to act
└── LeaseLost            somebody else owns the run now; nothing was written

Every class has a stable `code`; it is part of the public interface.
"""


class StorageError(Exception):
    """The storage did not do what it was asked."""

    code = "storage_error"


class StorageUnavailable(StorageError):
    """The store cannot be asked right now; `retry_after` is when to try again, in seconds."""

    code = "storage_unavailable"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageUnsuitable(StorageError):
    """The store will never do; the text says what to install or set."""

    code = "storage_unsuitable"


class LeaseLost(StorageError):
    """The lease is not ours any more, so the write was refused as a whole."""

    code = "lease_lost"
