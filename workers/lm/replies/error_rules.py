"""The rules by which failures of models become ModelErrors."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ABORTED",
    "AUTHENTICATION",
    "BILLING",
    "CONFIGURATION",
    "CONTEXT",
    "FILTER",
    "GARBLED",
    "INVALID",
    "LIMIT",
    "LOCK",
    "MODEL",
    "NO_ANSWER",
    "NO_KEY",
    "PROVIDER",
    "RATE",
    "REDIRECT",
    "REFUSED",
    "SCHEMA",
    "SERVER",
    "STREAM",
    "TIMEOUT",
    "TLS",
    "TRANSPORT",
    "UNEXPECTED",
    "UNREADABLE",
    "UNSENDABLE",
    "UNSUPPORTED",
    "ErrorRule",
]


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """The ModelError for one kind of failure: its code, whether to retry, and the reason in its text."""

    code: str
    retryable: bool
    reason: str


ABORTED = ErrorRule("provider_unavailable", True, "the provider broke off the answer")
AUTHENTICATION = ErrorRule("authentication", False, "the provider refused the credentials")
BILLING = ErrorRule("billing", False, "the provider reports a billing or quota problem on the account")
CONFIGURATION = ErrorRule("invalid_request", False, "the program names a model or settings that cannot be used")
CONTEXT = ErrorRule("context_window_exceeded", False, "the prompt is longer than the model's context window")
FILTER = ErrorRule("content_filtered", False, "the provider's content filter withheld the answer")
GARBLED = ErrorRule("output_unparseable", True, "the model's answer broke off or is malformed")
INVALID = ErrorRule("invalid_request", False, "the provider refused the request")
LIMIT = ErrorRule("model_error", False, "the reply is larger than the largest size")
LOCK = ErrorRule("provider_unavailable", True, "the credential file is locked by another process")
MODEL = ErrorRule("unsupported", False, "the provider does not offer this model")
NO_ANSWER = ErrorRule("provider_unavailable", True, "the provider's reply has no answer")
NO_KEY = ErrorRule("authentication", False, "no credentials for the provider were found on the worker")
PROVIDER = ErrorRule("model_error", False, "the provider answered with an error")
RATE = ErrorRule("rate_limited", True, "the provider limits the rate of requests")
REDIRECT = ErrorRule(
    "invalid_request", False, "the address redirects to another one: name that one in api_base, or check the path"
)
REFUSED = ErrorRule("content_filtered", False, "the model refused to answer")
SCHEMA = ErrorRule("invalid_request", False, "the provider refused the JSON Schema of the answer")
SERVER = ErrorRule("provider_unavailable", True, "the provider failed while handling the request")
STREAM = ErrorRule("provider_unavailable", True, "the provider's stream broke off")
TIMEOUT = ErrorRule("model_timeout", True, "the provider did not answer in time")
TLS = ErrorRule("provider_unavailable", False, "the provider's certificate could not be verified")
TRANSPORT = ErrorRule("provider_unavailable", True, "the provider could not be reached")
UNEXPECTED = ErrorRule("model_error", False, "the model call failed in an unexpected way")
UNREADABLE = ErrorRule("provider_unavailable", True, "the provider's reply could not be read")
UNSENDABLE = ErrorRule(
    "authentication", False, "the key has characters that cannot be sent in an HTTP header: copy it again"
)
UNSUPPORTED = ErrorRule("unsupported", False, "the provider does not support what the program asks for")
