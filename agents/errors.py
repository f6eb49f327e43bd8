"""The errors of this package.

TransientError (resilience)
├── ModelUnavailable        5xx, connection refused or lost
├── ModelTimedOut           the provider did not answer in its time
└── Throttled
    └── ModelThrottled      429
PermanentError (resilience)
├── ModelRejectedRequest    4xx that is ours: key, permission, unknown model, prompt too long
├── QuotaExhausted          429 `insufficient_quota`: waiting does not help
├── OutputInvalid           garbage, empty, refused or cut; `reason` says which
└── StreamBroken            the stream ended after the customer had seen its beginning
AgentError                  a specialist gave up
└── StepLimitReached        it used up its model calls without an answer
"""

from agents.usage import Usage
from resilience.errors import PermanentError, Throttled, TransientError


class ModelUnavailable(TransientError):
    """The provider is ill or out of reach."""

    code = "model_unavailable"


class ModelTimedOut(TransientError):
    """The provider did not answer in its time."""

    code = "model_timed_out"


class ModelThrottled(Throttled):
    """The provider wants fewer calls."""

    code = "model_throttled"


class ModelRejectedRequest(PermanentError):
    """The provider refuses this request and will refuse it again."""

    code = "model_rejected_request"


class QuotaExhausted(PermanentError):
    """The account at the provider is used up."""

    code = "model_quota_exhausted"


class OutputInvalid(PermanentError):
    """What came back is no answer.

    Args:
        reason: `garbage`, `empty`, `refused` or `cut`.
        detail: What is wrong, in words that a model can be told.
        usage: What it cost all the same.
    """

    code = "model_output_invalid"

    def __init__(self, reason: str, detail: str, usage: Usage | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        # Garbage and silence come from the provider; a refusal or the token limit come from what was asked.
        self.is_illness = reason in ("garbage", "empty")
        self.detail = detail
        self.usage = usage or Usage()


class StreamBroken(PermanentError):
    """The stream broke after its first visible token, so nobody may start it again."""

    code = "model_stream_broken"
    is_illness = True


class AgentError(Exception):
    """A specialist gave up."""

    code = "specialist_failed"


class StepLimitReached(AgentError):
    """The specialist used up its model calls without an answer."""

    code = "specialist_step_limit"


class RepeatedToolCall(AgentError):
    """The specialist called one tool with the same arguments over and over."""

    code = "specialist_repeated_call"
