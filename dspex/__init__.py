"""DSPex: durable, distributed execution of DSPy programs.

Everything public is importable from here and loads on first use, so that ``import dspex`` stays light and never
brings dspy, litellm or celery with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.client.async_client import AsyncClient
    from dspex.client.audit_trail import AuditEvent, AuditTrail
    from dspex.client.batch import AsyncBatch, Batch, BatchSummary, Progress
    from dspex.client.client import Client
    from dspex.client.execution import AsyncExecution, Execution, Metrics, Waiting
    from dspex.client.follow import StreamEvent
    from dspex.client.model_call import ModelCall, ToolCall
    from dspex.client.recurring.schedule import Schedule
    from dspex.client.result import Result
    from dspex.client.waits.approval import Approval
    from dspex.client.waits.bundle import Bundle
    from dspex.errors import (
        ActionFailed,
        AlertNotDelivered,
        AlreadyDecided,
        ApprovalNotFound,
        BackendUnavailable,
        ConfigurationError,
        ConstraintViolation,
        DspexError,
        EncryptionError,
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
        ProgramUnreadable,
        ProgramVersionMismatch,
        RateLimited,
        ResultNotReady,
        SchemaOutdated,
        SecretInProgram,
        SignatureSyntaxError,
        SignatureTypeError,
        TransitionRefused,
        ValidationError,
    )
    from dspex.operations.health.conditions import Component, Condition, HealthReport
    from dspex.program.actions import Action
    from dspex.program.adapters import AdapterInfo, Capabilities, adapters
    from dspex.program.calls.remote import remote
    from dspex.program.calls.tool_policy import idempotency_key, tool
    from dspex.program.limits import Limits
    from dspex.program.marked_functions import setup
    from dspex.program.models import Model, model
    from dspex.program.program import Program, Retry
    from dspex.settings import Settings
    from dspex.signatures import Field, InputField, OutputField, Signature, SignatureModel, register_type, signature
    from dspex.store.lifecycle.status import Status
    from dspex.store.programs import ProgramSummary
    from dspex.submit.batch_rows import Rejected

# Lighter before heavier: a name is looked up in this order, and no module after its own is loaded.
_MODULES = (
    "errors",
    "signatures",
    "program.adapters",
    "client.audit_trail",
    "store.lifecycle.status",
    "program.limits",
    "program.actions",
    "program.models",
    "program.marked_functions",
    "program.calls.tool_policy",
    "program.calls.remote",
    "program.program",
    "submit.batch_rows",
    "settings",
    "operations.health.conditions",
    "client.result",
    "store.programs",
    "client.model_call",
    "client.waits.approval",
    "client.waits.bundle",
    "client.follow",
    "client.execution",
    "client.batch",
    "client.recurring.schedule",
    "client.client",
    "client.async_client",
)

__all__ = [
    "Action",
    "ActionFailed",
    "AdapterInfo",
    "AlertNotDelivered",
    "AlreadyDecided",
    "Approval",
    "ApprovalNotFound",
    "AsyncBatch",
    "AsyncClient",
    "AsyncExecution",
    "AuditEvent",
    "AuditTrail",
    "BackendUnavailable",
    "Batch",
    "BatchSummary",
    "Bundle",
    "Capabilities",
    "Client",
    "Component",
    "Condition",
    "ConfigurationError",
    "ConstraintViolation",
    "DspexError",
    "EncryptionError",
    "Execution",
    "ExecutionCancelled",
    "ExecutionFailed",
    "ExecutionNotFound",
    "ExecutionTimedOut",
    "Field",
    "FieldError",
    "HealthReport",
    "IdempotencyConflict",
    "InputField",
    "LeaseLost",
    "Limits",
    "MessageRefused",
    "Metrics",
    "Model",
    "ModelCall",
    "ModelError",
    "ModuleNotAllowed",
    "OutputField",
    "Program",
    "ProgramError",
    "ProgramNotFound",
    "ProgramSummary",
    "ProgramUnreadable",
    "ProgramVersionMismatch",
    "Progress",
    "RateLimited",
    "Rejected",
    "Result",
    "ResultNotReady",
    "Retry",
    "Schedule",
    "SchemaOutdated",
    "SecretInProgram",
    "Settings",
    "Signature",
    "SignatureModel",
    "SignatureSyntaxError",
    "SignatureTypeError",
    "Status",
    "StreamEvent",
    "ToolCall",
    "TransitionRefused",
    "ValidationError",
    "Waiting",
    "adapters",
    "idempotency_key",
    "model",
    "register_type",
    "remote",
    "setup",
    "signature",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, (f"dspex.{home}" for home in _MODULES)):
            if name in module.__all__:
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module 'dspex' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
