"""Every upstream error class is told in our words, and no word of a prompt, an answer or a key gets out."""

from __future__ import annotations

import asyncio
import pickle
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import aiohttp
import dspy
import lm15
import pytest
from dspy import lm15 as dspy_lm15
from dspy.primitives.code_interpreter import CodeInterpreterError
from dspy.utils.exceptions import AdapterParseError, DSPyError, LMError, LMUnexpectedError

from dspex.errors import LeaseLost, ModelError, ProgramError
from workers.adapters.dspy.engine_bridge import program_failure
from workers.lm.model_errors import RULES, model_error

CODES = frozenset(
    {"provider_unavailable", "rate_limited", "model_timeout", "authentication", "billing", "invalid_request"}
    | {"context_window_exceeded", "content_filtered", "unsupported", "output_unparseable", "model_error"}
)
#: A class that DSPy does not export may be told as its parent, but not as one of these, which say nothing.
ROOTS = {lm15.LM15Error, lm15.ProviderError, dspy_lm15.LM15Error, dspy_lm15.ProviderError, LMError}
#: DSPy's errors of the code a program runs: they are the program's own, not a model's.
OF_THE_PROGRAM = CodeInterpreterError


def family(root: type[Any]) -> Iterator[type[Any]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


def nearest(cls: type[BaseException]) -> type[BaseException]:
    return next(parent for parent in cls.__mro__ if parent in RULES)


@pytest.mark.parametrize(
    "root",
    [lm15.LM15Error, dspy_lm15.LM15Error, LMError, AdapterParseError, aiohttp.ClientError],
    ids=lambda root: f"{root.__module__}.{root.__name__}",
)
def test_every_upstream_class_is_in_the_table(root: type[BaseException]) -> None:
    upstream = [cls for cls in family(root) if cls.__module__.split(".")[0] in ("dspy", "lm15", "aiohttp")]
    exported = {getattr(package, name) for package in (lm15, dspy_lm15) for name in package.__all__}
    unmapped = [
        cls.__qualname__
        for cls in upstream
        if cls not in RULES and (cls in exported or cls.__module__.startswith("dspy.utils") or nearest(cls) in ROOTS)
    ]
    assert not unmapped, f"there are error classes that workers/lm/model_errors.py does not tell: {unmapped}"


def test_dspy_has_no_other_kind_of_error() -> None:
    assert set(DSPyError.__subclasses__()) <= {LMError, AdapterParseError, OF_THE_PROGRAM}


def test_every_code_is_a_documented_one() -> None:
    assert {rule.code for rule in RULES.values()} <= CODES


@pytest.mark.parametrize("cls", [lm15.RateLimitError, lm15.TimeoutError, lm15.ServerError, lm15.TransportError])
def test_what_passes_by_itself_is_retryable(cls: type[lm15.LM15Error]) -> None:
    assert model_error(cls("busy"), model="m/x").retryable


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (lm15.AuthError("bad key", status=401), "authentication", False),
        (lm15.BillingError("quota", status=429), "billing", False),
        (lm15.ContextLengthError("too long"), "context_window_exceeded", False),
        (lm15.UnsupportedModelError("gone", status=404), "unsupported", False),
        (lm15.ProviderError("not JSON", status=200), "provider_unavailable", True),
        (lm15.ProviderError("teapot", status=418), "model_error", False),
        (ConnectionResetError(104, "reset"), "provider_unavailable", True),
        (socket.gaierror(-2, "unknown"), "provider_unavailable", True),
        (asyncio.IncompleteReadError(b"", 10), "provider_unavailable", True),
        (ssl.SSLCertVerificationError("self-signed"), "provider_unavailable", False),
        (TimeoutError(), "model_timeout", True),
        (ValueError("choices must be an array"), "provider_unavailable", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_each_error_becomes(error: BaseException, code: str, retryable: bool) -> None:
    told = model_error(error, model="m/x")
    assert (told.code, told.retryable) == (code, retryable)
    assert pickle.loads(pickle.dumps(told)).as_dict() == told.as_dict()


def test_evidence_is_kept() -> None:
    upstream = lm15.RateLimitError(
        "slow down: max_tokens is too high for user Jane Doe",
        status=429,
        provider="openai-chat",
        provider_code="rate_limit_exceeded",
        request_id="req_011CQ",
        retry_after=7,
    )
    told = model_error(upstream, model="openai/gpt-4o-mini", address="https://gateway/v1")
    assert told.retry_after == 7
    for word in ("429", "rate_limit_exceeded", "req_011CQ", "openai/gpt-4o-mini", "max_tokens", "https://gateway/v1"):
        assert word in str(told)


@pytest.mark.parametrize("secret", ["sk-proj-abcdefghijklmnop1234", "my mother's maiden name is Smith"])
def test_no_upstream_text_gets_out(secret: str) -> None:
    for cls in family(lm15.LM15Error):
        needed = {"reason": "login_required"} if cls is lm15.AuthOperationError else {}
        told = model_error(cls(f"you sent {secret}", provider_code=secret, **needed), model="m/x")
        assert secret not in str(told.as_dict())


def test_a_long_way_down_the_operating_systems_reason_is_found() -> None:
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused by secret.internal")
        except OSError as error:
            raise lm15.TransportError("could not connect to secret.internal") from error
    except lm15.TransportError as error:
        told = model_error(error, model="m/x")
    assert told.details["os_error"] == "Connection refused"
    assert "secret.internal" not in str(told)


def test_our_own_error_comes_back_out_of_dspys_wrapping() -> None:
    lost = LeaseLost(execution_id="1")
    wrapped = LMUnexpectedError("wrapped", model="m/x")
    wrapped.__cause__ = lost
    assert program_failure(wrapped, program="p", model="m/x") is lost


def test_an_answer_that_cannot_be_parsed_may_be_tried_again() -> None:
    error = AdapterParseError("ChatAdapter", dspy.Signature("a -> b"), "the patient's name is Smith")
    told = program_failure(error, program="p", model="m/x")
    assert isinstance(told, ModelError)
    assert (told.code, told.retryable) == ("output_unparseable", True)
    assert "Smith" not in str(told.as_dict())


def test_the_programs_own_error_says_where_and_not_what() -> None:
    try:
        dict[str, int]()["the patient's name is Smith"]
    except KeyError as error:
        told = program_failure(error, program="triage", model="m/x")
    assert isinstance(told, ProgramError)
    assert not told.retryable
    assert "Smith" not in str(told.as_dict())
    assert told.details["at"].startswith("test_model_errors.py:")
