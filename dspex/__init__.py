"""DSPex: durable, distributed execution of DSPy programs.

Everything public is importable from here and loads on first use, so that ``import dspex`` stays light and never
brings dspy, litellm or celery with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.audit import AuditEvent, AuditTrail
    from dspex.batch import Batch, Progress, Rejected
    from dspex.client import Client
    from dspex.errors import (
        BackendUnavailable,
        ConfigurationError,
        ConstraintViolation,
        DspexError,
        ExecutionCancelled,
        ExecutionFailed,
        ExecutionNotFound,
        ExecutionTimedOut,
        FieldError,
        IdempotencyConflict,
        LeaseLost,
        MessageRefused,
        ModelError,
        ModuleNotAllowed,
        ProgramError,
        ProgramNotFound,
        ProgramVersionMismatch,
        ResultNotReady,
        SchemaOutdated,
        SecretInProgram,
        SignatureSyntaxError,
        SignatureTypeError,
        ValidationError,
    )
    from dspex.execution import Execution, Metrics, Result, Status
    from dspex.program import Program, Retry
    from dspex.registry import AdapterInfo, Capabilities, adapters
    from dspex.settings import Settings
    from dspex.signatures import Field, InputField, OutputField, Signature, SignatureModel, register_type, signature

_HOMES = {
    "audit": ("AuditEvent", "AuditTrail"),
    "batch": ("Batch", "Progress", "Rejected"),
    "client": ("Client",),
    "errors": (
        "BackendUnavailable",
        "ConfigurationError",
        "ConstraintViolation",
        "DspexError",
        "ExecutionCancelled",
        "ExecutionFailed",
        "ExecutionNotFound",
        "ExecutionTimedOut",
        "FieldError",
        "IdempotencyConflict",
        "LeaseLost",
        "MessageRefused",
        "ModelError",
        "ModuleNotAllowed",
        "ProgramError",
        "ProgramNotFound",
        "ProgramVersionMismatch",
        "ResultNotReady",
        "SchemaOutdated",
        "SecretInProgram",
        "SignatureSyntaxError",
        "SignatureTypeError",
        "ValidationError",
    ),
    "execution": ("Execution", "Metrics", "Result", "Status"),
    "program": ("Program", "Retry"),
    "registry": ("AdapterInfo", "Capabilities", "adapters"),
    "settings": ("Settings",),
    "signatures": ("Field", "InputField", "OutputField", "Signature", "SignatureModel", "register_type", "signature"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dspex' has no attribute {name!r}")
    value = getattr(import_module(f"dspex.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
