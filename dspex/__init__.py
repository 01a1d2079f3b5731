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
    from dspex.client.improvement.dataset import Dataset, DatasetRow
    from dspex.client.improvement.evaluation import Evaluation, EvaluationRow
    from dspex.client.improvement.feedback import Feedback
    from dspex.client.improvement.optimization import (
        Optimization,
        OptimizationProgress,
        OptimizationResult,
        TriedVersion,
    )
    from dspex.client.improvement.replayed_executions import Replay, ReplayedRow, ReplayFigures
    from dspex.client.improvement.score_comparison import RowDifference, ScoreComparison
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
    from dspex.program.improvement.rollout_guard import Guard
    from dspex.program.limits import Limits
    from dspex.program.marked_functions import setup
    from dspex.program.models import Model, model
    from dspex.program.program import Program, Retry
    from dspex.scoring import builtin_metrics as metrics
    from dspex.scoring.score_statistics import PairedDifference
    from dspex.settings import Settings
    from dspex.signatures import Field, InputField, OutputField, Signature, SignatureModel, register_type, signature
    from dspex.store.improvement.evaluations import ScoreFigures
    from dspex.store.improvement.program_changes import ProgramChange
    from dspex.store.improvement.program_versions import Version
    from dspex.store.improvement.rollouts import Rollout
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
    "program.improvement.rollout_guard",
    "scoring.score_statistics",
    "program.program",
    "submit.batch_rows",
    "settings",
    "operations.health.conditions",
    "client.result",
    "store.improvement.program_changes",
    "store.improvement.program_versions",
    "store.improvement.rollouts",
    "store.improvement.evaluations",
    "store.programs",
    "client.model_call",
    "client.waits.approval",
    "client.waits.bundle",
    "client.follow",
    "client.improvement.feedback",
    "client.execution",
    "client.batch",
    "client.recurring.schedule",
    "client.improvement.dataset",
    "client.improvement.evaluation",
    "client.improvement.score_comparison",
    "client.improvement.replayed_executions",
    "client.improvement.optimization",
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
    "Dataset",
    "DatasetRow",
    "DspexError",
    "EncryptionError",
    "Evaluation",
    "EvaluationRow",
    "Execution",
    "ExecutionCancelled",
    "ExecutionFailed",
    "ExecutionNotFound",
    "ExecutionTimedOut",
    "Feedback",
    "Field",
    "FieldError",
    "Guard",
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
    "Optimization",
    "OptimizationProgress",
    "OptimizationResult",
    "OutputField",
    "PairedDifference",
    "Program",
    "ProgramChange",
    "ProgramError",
    "ProgramNotFound",
    "ProgramSummary",
    "ProgramUnreadable",
    "ProgramVersionMismatch",
    "Progress",
    "RateLimited",
    "Rejected",
    "Replay",
    "ReplayFigures",
    "ReplayedRow",
    "Result",
    "ResultNotReady",
    "Retry",
    "Rollout",
    "RowDifference",
    "Schedule",
    "SchemaOutdated",
    "ScoreComparison",
    "ScoreFigures",
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
    "TriedVersion",
    "ValidationError",
    "Version",
    "Waiting",
    "adapters",
    "idempotency_key",
    "metrics",
    "model",
    "register_type",
    "remote",
    "setup",
    "signature",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return import_module("dspex.scoring.builtin_metrics")
    if name in __all__:
        for module in map(import_module, (f"dspex.{home}" for home in _MODULES)):
            if name in module.__all__:
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module 'dspex' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
