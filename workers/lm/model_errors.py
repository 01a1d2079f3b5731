"""Errors of models: one table from every upstream error class to a ModelError.

Upstream messages may quote the prompt, the answer or the key, so none of their text is kept. A ModelError has the
text of the table, and evidence that cannot hold user text: the model, the provider, the HTTP status, the
provider's error code and request id, the operating system's reason, and which request parameters were named.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import ssl
from typing import Any

import aiohttp
import lm15

from dspex.errors import ModelError
from workers.lm.replies.error_rules import (
    AUTHENTICATION,
    BILLING,
    CONFIGURATION,
    CONTEXT,
    FILTER,
    GARBLED,
    INVALID,
    LIMIT,
    LOCK,
    MODEL,
    NO_KEY,
    PROVIDER,
    RATE,
    SERVER,
    STREAM,
    TIMEOUT,
    TLS,
    TRANSPORT,
    UNEXPECTED,
    UNREADABLE,
    UNSUPPORTED,
    ErrorRule,
)
from workers.lm.replies.reply_fault import ReplyFault
from workers.lm.replies.retry_after import sensible_delay

__all__ = ["LM15_RULES", "RULES", "ErrorRule", "clean_request_id", "model_error"]


#: lm15's errors. DSPy has a copy of each, and LiteLLM its own names for most: see
#: workers/adapters/dspy/engine_bridge.py and litellm.py.
LM15_RULES: dict[type[BaseException], ErrorRule] = {
    lm15.LM15Error: UNEXPECTED,
    lm15.TransportError: TRANSPORT,
    lm15.LockTimeoutError: LOCK,
    lm15.AuthOperationError: NO_KEY,
    lm15.CollectionLimitError: LIMIT,
    lm15.StreamAssemblyError: STREAM,
    lm15.ConfigurationError: CONFIGURATION,
    lm15.NotConfiguredError: NO_KEY,
    lm15.MissingCredentialError: NO_KEY,
    lm15.UnknownModelError: CONFIGURATION,
    lm15.AmbiguousModelError: CONFIGURATION,
    lm15.CapabilityError: UNSUPPORTED,
    lm15.UnsupportedFeatureError: UNSUPPORTED,
    lm15.ProviderError: PROVIDER,
    lm15.AuthError: AUTHENTICATION,
    lm15.BillingError: BILLING,
    lm15.RateLimitError: RATE,
    lm15.TimeoutError: TIMEOUT,
    lm15.InvalidRequestError: INVALID,
    lm15.ContextLengthError: CONTEXT,
    lm15.UnsupportedModelError: MODEL,
    lm15.ServerError: SERVER,
}

#: Every upstream error class that is known; the optional modules add theirs when they load. The nearest class in an
#: error's MRO decides; tests/unit/test_model_errors.py fails when an upgrade brings one that is not here.
RULES: dict[type[BaseException], ErrorRule] = {
    **LM15_RULES,
    # lm15, reading a reply of an unexpected shape
    ValueError: UNREADABLE,
    TypeError: UNREADABLE,
    LookupError: UNREADABLE,
    AttributeError: UNREADABLE,
    # the network under them
    aiohttp.ClientError: TRANSPORT,
    aiohttp.ServerTimeoutError: TIMEOUT,
    aiohttp.InvalidURL: CONFIGURATION,
    aiohttp.ClientConnectorCertificateError: TLS,
    OSError: TRANSPORT,
    EOFError: TRANSPORT,
    TimeoutError: TIMEOUT,
    ConnectionError: TRANSPORT,
    socket.gaierror: TRANSPORT,
    ssl.SSLError: TRANSPORT,
    ssl.SSLCertVerificationError: TLS,
    asyncio.IncompleteReadError: TRANSPORT,
}

#: Gemini's codes for ending without an answer, which lm15 reports as invalid requests.
_ENDINGS = {
    **dict.fromkeys(("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "promptFeedback"), FILTER),
    **dict.fromkeys(("MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "LANGUAGE"), GARBLED),
}

_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_OTHER_HOST = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_CODE = re.compile(r"[A-Za-z][A-Za-z_.]{0,63}|[0-9]{1,6}")
_PROVIDER_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_WORD = re.compile(r"[a-z_]+")
#: Parameter names of the providers' APIs: the only words of an upstream message that are repeated.
_PARAMETERS = frozenset(
    {"frequency_penalty", "grammar", "image_url", "json_object", "json_schema", "logit_bias", "logprobs", "messages"}
    | {"max_completion_tokens", "max_tokens", "model", "presence_penalty", "reasoning_effort", "response_format"}
    | {"seed", "temperature", "tool_choice", "tools", "top_k", "top_p"}
)


def model_error(
    error: BaseException,
    *,
    model: str,
    address: str | None = None,
    key_variable: str | None = None,
    longest_wait: float = math.inf,
) -> ModelError:
    """The ModelError for this upstream error; ``address`` is the address that was asked, if known,
    ``key_variable`` the variable that the program names for its key. A provider that asks for a longer wait than
    ``longest_wait`` gets that."""
    rule = _rule(error)
    evidence = _evidence(error)
    if key_variable and rule.code == "authentication":
        evidence["variables"] = [key_variable]
    if evidence.get("retry_after", 0) > longest_wait:
        evidence |= {"retry_after": longest_wait, "retry_after_asked": evidence["retry_after"]}
    shown = ", ".join(f"{name} {value}" for name, value in _shown(evidence, address))
    return ModelError(
        f"model {model!r}: {rule.reason}" + (f" ({shown})" if shown else ""),
        code=rule.code,
        retryable=rule.retryable,
        model=model,
        **evidence,
    )


def clean_request_id(value: object) -> str | None:
    """The provider's own id of a request, if it looks like one."""
    return _matching(_REQUEST_ID, value)


def _rule(error: BaseException) -> ErrorRule:
    for cause in _network_causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TLS
    if isinstance(error, ReplyFault):
        return error.rule
    ending = _ENDINGS.get(str(getattr(error, "provider_code", None)))
    if ending is not None:
        return ending
    status = getattr(error, "status", None)
    if type(error) is lm15.ProviderError and isinstance(status, int) and status < 400:
        return UNREADABLE  # lm15's error for a success with an unexpected body
    return next((RULES[cls] for cls in type(error).__mro__ if cls in RULES), UNEXPECTED)


def _evidence(error: BaseException) -> dict[str, Any]:
    found = {
        "type": type(error).__name__,
        "provider": _matching(_PROVIDER_ID, getattr(error, "provider", None)),
        "status": _matching_status(getattr(error, "status", None)),
        "provider_code": _matching(_CODE, getattr(error, "provider_code", None)),
        "request_id": clean_request_id(getattr(error, "request_id", None)),
        "retry_after": sensible_delay(getattr(error, "retry_after", None)),
        "os_error": next(filter(None, map(_os_reason, _network_causes(error))), None),
        "certificate": next(filter(None, map(_certificate_fault, _network_causes(error))), None),
        "variables": list(getattr(error, "env_keys", ())) or None,
        "mentions": sorted(_mentions(error)) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _mentions(error: BaseException) -> set[str]:
    """The parameters that the provider names."""
    named = set(_PARAMETERS.intersection(_WORD.findall(str(getattr(error, "message", "")).lower())))
    return named | {"json_schema"} if isinstance(error, ReplyFault) and error.is_about_schema else named


def _shown(evidence: dict[str, Any], address: str | None) -> list[tuple[str, Any]]:
    named = [
        ("at", address),
        ("HTTP", evidence.get("status")),
        ("code", evidence.get("provider_code")),
        ("request", evidence.get("request_id")),
        ("cause:", evidence.get("os_error")),
        ("certificate", evidence.get("certificate")),
        ("retry after seconds:", evidence.get("retry_after")),
        ("asked for seconds:", evidence.get("retry_after_asked")),
        ("environment variable:", " or ".join(evidence.get("variables", ())) or None),
        ("about", " and ".join(evidence.get("mentions", ())) or None),
    ]
    return [(name, value) for name, value in named if value is not None]


def _network_causes(error: BaseException) -> list[OSError]:
    """The operating system's errors behind this one, outermost first."""
    causes, inner = [], error
    for _ in range(10):
        if isinstance(inner, OSError):
            causes.append(inner)
        following = inner.__cause__ or inner.__context__
        if following is None:
            break
        inner = following
    return causes


def _os_reason(error: OSError) -> str | None:
    if isinstance(error, socket.gaierror):
        return "the host name could not be resolved"
    if error.errno is None or isinstance(error, ssl.SSLError):
        return None
    return os.strerror(error.errno)


def _certificate_fault(error: OSError) -> str | None:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return None
    # aiohttp's error wraps the one that has the reason
    fault = getattr(getattr(error, "certificate_error", error), "verify_code", 0)
    if fault in _OTHER_HOST:
        return "for another host name: check the address"
    if fault == _EXPIRED:
        return "expired"
    return "of an unknown authority: name its certificate in DSPEX_CA_FILE or SSL_CERT_FILE and restart the worker"


def _matching(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _matching_status(value: object) -> int | None:
    return value if isinstance(value, int) and 100 <= value <= 599 else None
