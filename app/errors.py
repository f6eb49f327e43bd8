"""The service's own refusals: each has a stable `code` and the HTTP status that goes with it.

AppError
├── InvalidInput          422  the request is malformed
├── Unauthenticated       401  no key, or a wrong one
├── NotFound              404  there is none, or it is another tenant's: the two are not told apart
├── AlreadyExists         409
├── ThreadBusy            409  another run is under way on the thread
├── NotChangeable         409  what is there does not allow it
├── ConflictingRequest    400  two fields of the request exclude each other
├── TooManyRequests       429  the allowance per time is used up
├── NotReady              503  the service is starting or draining
└── Overloaded            503  the request could not be served in time, or nothing more can wait
"""


class AppError(Exception):
    """A refusal with a reason.

    Args:
        detail: What is wrong and what to do, for the caller.
        code: A finer code than the class's.
    """

    code = "error"
    status = 500
    retry_after: float | None = None
    param: str | None = None

    def __init__(self, detail: str, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code


class InvalidInput(AppError):
    """The request is malformed."""

    code = "invalid_input"
    status = 422


class Unauthenticated(AppError):
    """No key, or a wrong one."""

    code = "unauthenticated"
    status = 401


class NotFound(AppError):
    """There is none, or it is another tenant's."""

    code = "not_found"
    status = 404


class AlreadyExists(AppError):
    """There is one already."""

    code = "already_exists"
    status = 409


class ThreadBusy(AppError):
    """Another run is under way on the thread."""

    code = "thread_busy"
    status = 409
    retry_after = 1.0


class NotChangeable(AppError):
    """What is there does not allow it."""

    code = "not_changeable"
    status = 409


class ConflictingRequest(AppError):
    """Two fields of the request exclude each other."""

    code = "conflicting_request"
    status = 400


class TooManyRequests(AppError):
    """The allowance per time is used up; `retry_after` in seconds."""

    code = "rate_limited"
    status = 429

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotReady(AppError):
    """The service is starting or draining."""

    code = "not_ready"
    status = 503
    retry_after = 1.0


class Overloaded(AppError):
    """The request could not be served in time, or nothing more can wait.

    Args:
        detail: Why, for the caller.
        retry_after: When it may be worth trying again, seconds.
    """

    code = "overloaded"
    status = 503

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
