"""The stable codes of refusals, by HTTP status: what the OpenAPI document lists, and a contract test holds against the code that raises."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CODES: Mapping[int, Mapping[str, str]] = MappingProxyType(
    {
        400: {
            "conflicting_request": "two fields of the request exclude each other",
            "context_and_configurable": "`context` and `config.configurable` say the same thing twice",
            "resume_without_thread": "command.resume answers an interrupt of a thread, and this run has none",
            "invalid_argument": "the body of a request of protocol v2 is malformed",
        },
        401: {
            "unauthenticated": "the operators' token is missing or wrong",
            "api_key_missing": "an API key is needed and none was sent",
            "api_key_unknown": "the API key is nobody's",
            "browser_token_expired": "the browser token has expired; the backend makes a new one",
            "browser_token_unknown": "the browser token is none of ours, or the API key behind it is gone",
        },
        403: {
            "forbidden": "the caller may not do this",
            "browser_tokens_off": "no browser tokens are issued here",
            "not_for_browsers": "a browser token is not for this route",
            "field_not_for_browsers": "a browser may not say this",
            "assistant_not_for_browsers": "the browser token is for another assistant",
            "approval_not_for_browsers": "the browser token does not allow to answer what a run asks",
            "origin_not_allowed": "the browser token is for another page",
        },
        404: {
            "not_found": "there is no such route",
            "thread_not_found": "there is no such thread, or it is another tenant's",
            "run_not_found": "the thread has no such run",
            "run_ended": "the run has ended already and cannot be cancelled",
            "nothing_to_cancel": "none of these runs is pending or running",
            "checkpoint_not_found": "the thread has no such checkpoint",
            "assistant_not_found": "there is no assistant of this id",
            "version_not_found": "the assistant has no such version",
            "graph_not_found": "the assistant's graph is not served any more",
            "cron_not_found": "there is no cron of this id, or it is another tenant's",
            "breaker_not_found": "there is no breaker of this dependency",
        },
        405: {"method_not_allowed": "the route has no such method; `Allow` names those it has"},
        409: {
            "already_exists": "there is one already",
            "too_many_feedback_keys": "the run has feedback under as many keys as it may",
            "thread_exists": "there is a thread of this id, and `if_exists` is `raise`",
            "assistant_exists": "there is an assistant of this id, and `if_exists` is `raise`",
            "too_many_assistants": "the tenant has as many assistants as it may",
            "too_many_crons": "the tenant has as many crons as it may",
            "not_changeable": "this cannot be changed",
            "system_assistant": "a graph's own assistant cannot be changed or deleted",
            "thread_busy": "another run is under way on the thread",
            "run_not_ended": "the run has not ended; cancel it first",
            "run_removed": "the run of this Idempotency-Key was rolled back or deleted",
            "idempotency_key_reused": "the Idempotency-Key stands for another request",
            "no_interrupt": "the thread asks nothing, or it has been answered",
            "no_such_interrupt": "this interrupt was not asked, or has been answered",
            "interrupt_answered": "somebody else has just answered this interrupt",
        },
        413: {"body_too_large": "the body is larger than is taken"},
        415: {"unsupported_media_type": "the body is of a media type that is not taken"},
        422: {
            "invalid_input": "the request is malformed; `detail` names the fields",
            "malformed_json": "the body is no JSON",
            "invalid_event_id": "Last-Event-ID is no id of an event",
            "invalid_update": "the state cannot be changed in this way",
            "nothing_to_run": "the run has no input, and the thread nothing to continue",
            "deadline_too_long": "X-Deadline-Ms is more than this service allows",
            "assistant_not_found": "there is no assistant of this name",
            "graph_not_found": "there is no graph of this name",
            "batch_too_large": "a batch holds more runs than are taken at once",
            "search_too_broad": "too many threads would have to be looked at; narrow the search",
            "never_due": "the schedule never comes before its end",
            "invalid_schedule": "the schedule is no cron expression",
            "invalid_timezone": "there is no such time zone",
            "cron_too_large": "the cron is larger than is kept",
            "invalid_item": "the item, or the search for items, makes no sense",
            "invalid_namespace": "a namespace has no labels, or one that cannot be",
            "invalid_filter": "the filter cannot be followed",
            "item_too_large": "the item is larger than is kept",
            "search_too_wide": "too much would have to be looked at; narrow the search",
            "invalid_context": "the graph cannot follow this context",
            "assistant_too_large": "the assistant is larger than is kept",
            "interrupt_ids_needed": "several interrupts wait; answer by id",
            "webhook_refused": "the webhook's address is not one that is called",
            "webhook_not_configured": "the operator has not configured webhooks",
        },
        429: {"rate_limited": "the API key's allowance of runs is used up"},
        500: {"internal_error": "the request failed for a reason that is in the service's log"},
        503: {
            "not_ready": "the service is starting or draining",
            "draining": "the service is going down; another process takes over",
            "overloaded": "the request could not be served in time",
            "storage_error": "the storage did not do what it was asked",
            "storage_unavailable": "the storage cannot be asked right now",
            "storage_unsuitable": "the storage will never do; an operator has to act",
            "lease_lost": "another process has taken the run over",
        },
    }
)
"""Status → code → when."""

RUN_CODES: Mapping[str, str] = MappingProxyType(
    {
        "deadline_exceeded": "the run did not end within its deadline",
        "recursion_limit": "the graph took more supersteps than it may",
        "run_crashed": "the processes that executed the run died too often",
        "internal_error": "the run failed for a reason that is in the service's log",
        "model_unavailable": "no model could be reached",
        "model_timed_out": "the model did not answer in time",
        "model_throttled": "the model's provider asks for patience",
        "model_rejected_request": "the model's provider refuses the request",
        "model_quota_exhausted": "the account at the model's provider is used up",
        "model_output_invalid": "the model answered nothing usable",
        "model_stream_broken": "the model's answer broke off after its first token",
        "specialist_failed": "the specialist could not do its work",
        "specialist_step_limit": "the specialist took more steps than it may",
        "specialist_repeated_call": "the specialist made the same call again and again",
        "tool_failed": "a tool failed",
        "tool_not_found": "the model called a tool that there is not",
        "tool_arguments_invalid": "the model called a tool with arguments that it does not take",
        "order_not_refundable": "the order cannot be refunded",
        "circuit_open": "a breaker is open",
        "bulkhead_full": "too many calls of the same kind are under way",
        "rate_limited": "an allowance of calls or tokens is used up",
        "overloaded": "the call could not be made in time",
        "attempt_timed_out": "one attempt took too long",
        "rejected": "a call was not tried",
        "resilience_error": "a call was not made or not answered",
        "dependency_error": "a dependency failed",
        "dependency_unavailable": "a dependency could not be reached",
        "dependency_throttled": "a dependency asks for patience",
        "dependency_refused": "a dependency refuses the call",
        "storage_unavailable": "the storage cannot be asked; join the run later",
    }
)
"""Why an accepted run may fail: the `code` of the event `error` and of `__error__`."""

OPENAI_CODES: Mapping[int, Mapping[str, str]] = MappingProxyType(
    {
        400: {
            "unsupported_parameter": "a field has a value that cannot be served",
            **CODES[400],
            **{code: when for code, when in CODES[422].items() if code not in ("invalid_event_id", "invalid_update")},
        },
        401: {"invalid_api_key": "the API key is missing or nobody's"},
        403: {"not_for_browsers": CODES[403]["not_for_browsers"]},
        404: {"not_found": CODES[404]["not_found"], "model_not_found": "there is no model of this name"},
        405: CODES[405],
        409: {code: when for code, when in CODES[409].items() if code.startswith(("idempotency", "run_removed"))},
        413: CODES[413],
        429: {"rate_limit_exceeded": CODES[429]["rate_limited"]},
        500: {"server_error": "the run behind the completion failed", **RUN_CODES},
        503: CODES[503],
    }
)
"""The same for the routes below `/v1`, which speak OpenAI's form."""
