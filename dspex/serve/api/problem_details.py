"""Errors as problem details (RFC 9457): one table from the code of an error to the status of the response."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from dspex.errors import BackendUnavailable, ConfigurationError, DspexError, FieldError, RateLimited, ValidationError
from dspex.serve.api.json_replies import json_bytes

__all__ = ["STATUSES", "UNEXPECTED", "HttpRefusal", "detail_of", "outage", "problem", "problem_of", "refusal_of",
           "response_of"]  # fmt: skip

MEDIA_TYPE = "application/problem+json"
#: The status for each code of an error that a route may raise; any other error of DSPex is a fault of the deployment.
STATUSES: Mapping[str, int] = {
    "validation_error": 422,
    "constraint_violation": 422,
    "data_refused": 422,
    "program_not_found": 404,
    "execution_not_found": 404,
    "approval_not_found": 404,
    "program_version_mismatch": 409,
    "idempotency_conflict": 409,
    "transition_refused": 409,
    "already_decided": 409,
    "result_not_ready": 409,
    "rate_limited": 429,
    "backend_unavailable": 503,
}
#: The status of an error of the deployment: it cannot serve this until an operator fixes it.
DEPLOYMENT_FAULT = 503
TITLES: Mapping[int, str] = {
    400: "Bad request", 401: "Not authenticated", 402: "Budget spent", 403: "Not allowed", 404: "Not found",
    405: "Method not allowed", 406: "Not acceptable", 408: "Request timeout", 409: "Conflict", 413: "Too large",
    415: "Unsupported media type", 422: "Invalid values", 429: "Too many requests", 500: "Internal error",
    503: "Unavailable",
}  # fmt: skip
#: The detail of the response to a request in which an unexpected exception was raised.
UNEXPECTED = "This is a bug in DSPex: the log of the gateway has the traceback"
#: After how many seconds a client should try again when a backend is out of reach.
RETRY_SECONDS = 2
_SEGMENT = re.compile(r"""\[(\d+)\]|\[['"](.*?)['"]\]|([^.\[\]]+)""")


class HttpRefusal(Exception):
    """The request is refused before any program is asked: a status, a code and what to do."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members


def problem(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """A response with problem details."""
    body = {
        "type": f"urn:dspex:problem:{code}", "title": TITLES.get(status, "Error"), "status": status, "code": code,
        "detail": detail, **members,
    }  # fmt: skip
    return Response(json_bytes(body), status, headers, MEDIA_TYPE)


def response_of(refusal: HttpRefusal) -> Response:
    """The response for a refused request."""
    return problem(refusal.status, refusal.code, refusal.detail, headers=refusal.headers, **refusal.members)


def problem_of(error: DspexError) -> Response:
    """The response for an error of DSPex."""
    return response_of(refusal_of(error))


def refusal_of(error: DspexError) -> HttpRefusal:
    """An error of DSPex as the refusal of the request that it ends."""
    status = STATUSES.get(error.code, DEPLOYMENT_FAULT)
    members: dict[str, Any] = {"retryable": error.retryable}
    headers: dict[str, str] = {}
    if isinstance(error, ValidationError):
        base = _base(error)
        members["errors"] = [_fault(each, base) for each in error.errors]
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(max(math.ceil(error.retry_after_seconds), 1))
        members["retry_after_seconds"] = error.retry_after_seconds
    elif status == DEPLOYMENT_FAULT:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if "execution_id" in error.details:
        members["execution_id"] = str(error.details["execution_id"])
    return HttpRefusal(status, error.code, detail_of(error), headers=headers, **members)


def detail_of(error: DspexError) -> str:
    """What happened, for the sender of a request: without addresses of the deployment, which messages have."""
    if isinstance(error, ConfigurationError):
        return "this deployment is not set up for it: the log of the gateway has the reason"
    if not isinstance(error, BackendUnavailable):
        return str(error).split("\n")[0]
    saved = "it is not known whether it was saved" if "not known" in str(error) else "nothing was saved"
    again = "Send the request again, with the same Idempotency-Key if it submits one execution"
    return f"{outage(error)} ({saved}). {again}"


def outage(error: BackendUnavailable) -> str:
    """Which backend is out of reach, without its address."""
    backend = {"postgres": "Postgres", "redis": "Redis"}.get(str(error.details.get("backend")), "A backend")
    return f"{backend} is out of reach"


def _base(error: ValidationError) -> str:
    """Where the faults of an error are in the body: the signature's own are in its inputs, or in corrected outputs."""
    return next((f"/{side}" for side in ("inputs", "outputs") if str(error).startswith(f"{side} of ")), "")


def _fault(fault: FieldError, base: str) -> dict[str, Any]:
    """A fault with the JSON pointer (RFC 6901) of its value."""
    found = {"pointer": base + pointer(fault.path), "expected": fault.expected}
    return found | {name: value for name in ("got", "constraint") if (value := getattr(fault, name))}


def pointer(path: str) -> str:
    """The path of a fault, such as ``history[2].text``, as a JSON pointer."""
    if path.startswith("/"):
        return path
    segments = (number or name or key for number, key, name in _SEGMENT.findall(path))
    return "".join("/" + segment.replace("~", "~0").replace("/", "~1") for segment in segments)
