"""What the body of a reply says about a failure, in the many forms that servers give it.

Codes decide before the status of the reply: gateways answer with 200, and with 500 for a request that is wrong. Texts
decide only where providers have no code: for prompts that are too long, refused schemas, and bodies without any code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.lm.replies import context_overflow
from workers.lm.replies.error_rules import (
    AUTHENTICATION,
    BILLING,
    CONTEXT,
    FILTER,
    INVALID,
    MODEL,
    PROVIDER,
    RATE,
    SCHEMA,
    SERVER,
    TIMEOUT,
    ErrorRule,
)

__all__ = ["ErrorBody", "error_in", "read_error"]

_CODES = ("code", "status", "type", "error_type", "errorType", "reason", "error_code", "status_code")
_PARTS = ("error", "errors", "message", "msg", "detail", "details", "description", "param", "loc", "metadata", "raw")
_INNER = (*_PARTS, "innererror", "inner_error", "error_message", "errorMessage", "error_msg", "base_resp", "status_msg")
_DEEPEST = 6
_MOST_PARTS = 40
_LONGEST_TEXT = 4000


@dataclass(slots=True)
class ErrorBody:
    """``codes`` are as the provider writes them, the outer ones first; ``texts`` are for people."""

    codes: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    @property
    def code(self) -> str | None:
        """The code that says most."""
        return min(self.codes, key=str.isdigit, default=None)

    def rule(self, status: int) -> ErrorRule:
        """What it means, with the status of the reply."""
        return self._by_text(status) or self._by_code() or self._by_status(status)

    def _keys(self) -> list[str]:
        """The codes as the tables have them, words before numbers: they say more. A text that is a few words and no
        sentence is one, too: {"error": "overloaded"}."""
        words = [text.strip() for text in self.texts if _WORDS.fullmatch(text)]
        keys = [key.lower().replace(" ", "_") for key in (*self.codes, *words)]
        return sorted(keys, key=str.isdigit)

    def _by_text(self, status: int) -> ErrorRule | None:
        if not context_overflow.CODES.isdisjoint(self._keys()) or context_overflow.is_context_overflow(self.text):
            return CONTEXT
        if status in _STATUS_OF_SCHEMA and _SCHEMA_TEXT.search(self.text):
            return SCHEMA
        return None

    def _by_code(self) -> ErrorRule | None:
        for code in self._keys():
            rule = _BY_CODE.get(code)
            if rule is not None:
                return self._of_model(code) or rule
        return None

    def _by_status(self, status: int) -> ErrorRule:
        text = self.text.lower()
        if "credit balance is too low" in text or "insufficient balance" in text:
            return BILLING
        numbers = [int(code) for code in self._keys() if code.isdigit() and 400 <= int(code) <= 599]
        for number in (*numbers, status):
            if number >= 400:
                return self._of_model(str(number)) or _of_status(number)
        if "rate limit" in text or "too many requests" in text:
            return RATE
        return INVALID if _WEAK & set(self._keys()) else SERVER

    def _of_model(self, code: str) -> ErrorRule | None:
        """Not found: the model, or something else."""
        found = code in ("404", "not_found", "not_found_error", "notfounderror", "resource_not_found_error")
        return (MODEL if _MODEL_TEXT.search(self.text) else INVALID) if found else None


def error_in(body: Mapping[str, Any]) -> ErrorBody | None:
    """The error that a body of JSON states, whatever the status of its reply is; None if it states none."""
    states = _states(body.get("error")) or body.get("errors") or "error" in (body.get("object"), body.get("type"))
    return read_error(body) if states else None


def _states(error: object) -> bool:
    """Whether it says anything: some servers send an object without a code or a message in every reply."""
    values = error.values() if isinstance(error, Mapping) else [error]
    return any(value and value != "0" for value in values)


def read_error(body: object) -> ErrorBody:
    """All that a body says about a failure: JSON, or text."""
    if isinstance(body, bytes):
        body = _json_or_text(body.decode("utf-8", "replace"))
    found = ErrorBody()
    for value in _breadth_first(body):
        if isinstance(value, Mapping):
            found.codes += [code for name in _CODES if (code := _code(value.get(name)))]
        elif isinstance(value, str) and value:
            found.texts.append(value[:_LONGEST_TEXT])
    return found


def _breadth_first(body: object) -> Iterator[object]:
    """The parts of a body in which an error may be described, the outer ones first."""
    waiting: list[tuple[int, object]] = [(0, body)]
    for depth, value in waiting:
        yield value
        if depth == _DEEPEST or len(waiting) > _MOST_PARTS:
            continue
        if isinstance(value, Mapping):
            waiting += [(depth + 1, value[name]) for name in _INNER if value.get(name)]
        elif isinstance(value, list):
            waiting += [(depth + 1, part) for part in value[:8]]
        elif isinstance(value, str) and value.lstrip()[:1] in ("{", "[") and depth:
            inner = _json_or_text(value)
            if not isinstance(inner, str):
                waiting.append((depth + 1, inner))


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _code(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    code = str(value).strip()[:100]
    return code if code and code.lower() not in _SAY_NOTHING else None


def _of_status(status: int) -> ErrorRule:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return SERVER if status >= 500 else PROVIDER


_WORDS = re.compile(r"\s*[A-Za-z]+(?:[ _.-][A-Za-z]+){0,5}\s*")
#: A body's own type or status says only that it is an error.
_SAY_NOTHING = frozenset({"error", "message", "none", "null", "object"})
_WEAK = frozenset({"invalid_request_error", "invalid_argument", "badrequesterror", "bad_request", "invalid_request"})
_MODEL_TEXT = re.compile(
    r"(?i)\bmodels?\b[^\n]{0,200}\b(?:not found|not exist|unknown|unsupported|not supported|not available|no access)"
    r"|\b(?:unknown|unsupported|no such) model\b|\bmodel_not_found\b|\bno (?:endpoints|models?) found"
)
_STATUS_OF_SCHEMA = frozenset({200, 400, 404, 415, 422, 500, 501})
_SCHEMA_TEXT = re.compile(
    r"(?i)\b(?:json[ _-]?schema|schemas?|response_?(?:json_?)?(?:format|schema)|grammars?|guided[ _](?:json|decoding)"
    r"|xgrammar|llguidance|outlines|structured[ _]?outputs?|unimplemented keys)\b"
)
_BY_STATUS = {
    **dict.fromkeys((400, 404, 405, 406, 409, 410, 411, 415, 422), INVALID),
    **dict.fromkeys((401, 403, 407), AUTHENTICATION),
    402: BILLING,
    **dict.fromkeys((408, 504, 522, 524), TIMEOUT),
    413: CONTEXT,
    **dict.fromkeys((425, 429), RATE),
    498: RATE,  # Groq: the capacity of the flex tier is exceeded
    499: SERVER,
}
#: Words and numbers of providers, in lower case: OpenAI's error codes and types, Anthropic's, Google's, Azure's,
#: Z.AI's, Moonshot's, DashScope's, TGI's and vLLM's.
_CODES_OF: Mapping[ErrorRule, str] = {
    AUTHENTICATION: "invalid_api_key authentication_error authenticationerror permission_error unauthenticated "
    "permission_denied unauthorized forbidden invalid_authentication_error api_key_invalid access_denied "
    "permissiondeniederror account_deactivated incorrect_api_key missing_api_key api_key_expired 401 403",
    BILLING: "insufficient_quota billing_error billing_hard_limit_reached billing_not_active payment_required "
    "exceeded_current_quota_error insufficient_balance failed_precondition arrearage insufficient_credits 402 1113",
    RATE: "rate_limit_exceeded rate_limit_error ratelimiterror rate_limited rate_limit rate_limit_reached "
    "too_many_requests toomanyrequests resource_exhausted no_capacity throttling throttlingexception requests tokens "
    "engine_overloaded_error queue_full 429 1302 1303 1305",
    SERVER: "server_error internal_server_error internalservererror internal_error internal api_error overloaded "
    "overloaded_error unavailable service_unavailable serviceunavailableerror unavailable_error bad_gateway "
    "model_overloaded server_overloaded capacity_exceeded generation incomplete_generation server_busy busy "
    "insufficient_system_resource unexpected_server_error upstream_error proxy_error 500 502 503 529",
    TIMEOUT: "timeout_error deadline_exceeded request_timeout gateway_timeout timeout timeouterror 408 504",
    FILTER: "content_filter content_policy_violation responsibleaipolicyviolation content_filtered safety 1301 "
    "data_inspection_failed datainspectionfailed moderation prohibited_content",
    MODEL: "model_not_found model_not_available unsupported_model deploymentnotfound model_not_exist no_such_model "
    "model_decommissioned model_terms_required",
    INVALID: "not_found not_found_error notfounderror resource_not_found_error 400 404 422 validation "
    "unprocessable_entity unprocessableentityerror",
}
_BY_CODE = {code: rule for rule, codes in _CODES_OF.items() for code in codes.split()}
