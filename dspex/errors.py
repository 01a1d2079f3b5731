"""The errors of DSPex: one tree, picklable, each with ``code``, ``retryable`` and ``details``.

::

    DspexError
    ├── SignatureSyntaxError     the text of a signature cannot be parsed
    ├── SignatureTypeError       a type or a constraint that does not exist or fit
    ├── ValidationError          values that do not fit a signature or a program: every one, in .errors
    │   └── ConstraintViolation  the types are right, and every fault is a violated constraint
    ├── ProgramNotFound          no such program, or no such version of it
    │   └── ProgramUnreadable    the stored program needs what is missing here, or is not a program
    ├── ProgramVersionMismatch   the program in hand is not the deployed one
    ├── SecretInProgram          a program contains a secret instead of the name of its variable
    ├── EncryptionError          a secret cannot be encrypted or decrypted: missing key, wrong key or damaged data
    ├── ModuleNotAllowed         a program needs code from outside DSPEX_PROGRAM_PACKAGES
    ├── RateLimited              this client has reached its rate limit; .retry_after_seconds
    ├── ExecutionNotFound        no such execution
    ├── TransitionRefused        the execution's status does not allow it
    ├── IdempotencyConflict      the idempotency key was used with other inputs
    ├── AlreadyDecided           somebody else decided about the call first: .details has who
    ├── ApprovalNotFound         nothing waits for a decision about this call
    ├── ExecutionFailed          the recorded failure of an execution: .execution_id .attempts .cause
    ├── ExecutionCancelled       the execution was cancelled
    ├── ExecutionTimedOut        waiting for a result took too long; the execution continues
    ├── ResultNotReady           the execution has not finished
    ├── ModelError               a call to a language model failed; the code says how
    ├── ProgramError             the program's own code raised
    ├── ActionFailed             a manual action of the program rejected the attempt
    ├── LeaseLost                this worker no longer owns the attempt; its outcome is discarded
    ├── MessageRefused           a message on the queue is damaged or not from DSPex
    ├── AlertNotDelivered        a channel could not send an alert; it is sent again later
    ├── BackendUnavailable       Postgres or Redis is unreachable
    ├── SchemaOutdated           the database's schema does not match this version
    └── ConfigurationError       invalid settings, all of them

Programs should decide by ``error.code`` and ``error.retryable``, never by the message. Codes are stable.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "ActionFailed",
    "AlertNotDelivered",
    "AlreadyDecided",
    "ApprovalNotFound",
    "BackendUnavailable",
    "ConfigurationError",
    "ConstraintViolation",
    "DspexError",
    "EncryptionError",
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
    "ProgramUnreadable",
    "ProgramVersionMismatch",
    "RateLimited",
    "ResultNotReady",
    "SchemaOutdated",
    "SecretInProgram",
    "SignatureSyntaxError",
    "SignatureTypeError",
    "TransitionRefused",
    "ValidationError",
]


class DspexError(Exception):
    """Something in DSPex failed.

    ``code`` is a stable identifier, ``retryable`` says whether the same call may succeed later, and ``details`` holds
    JSON-friendly evidence. The default message is the first line of the class docstring.
    """

    code: str = "error"
    retryable: bool = False

    def __init__(
        self, message: str | None = None, *, code: str | None = None, retryable: bool | None = None, **details: Any
    ) -> None:
        super().__init__(message if message is not None else inspect.cleandoc(type(self).__doc__ or "").split("\n")[0])
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable
        self.details: dict[str, Any] = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.code, self.retryable, self.details)

    def as_dict(self) -> dict[str, Any]:
        """The error as JSON-friendly data, in the form stored with an execution."""
        return {
            "type": type(self).__name__,
            "code": self.code,
            "message": str(self),
            "retryable": self.retryable,
            "details": self.details,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> DspexError:
        """Recreate an error from :meth:`as_dict`; an unknown type becomes a DspexError."""
        known = globals().get(str(data.get("type")))
        cls = known if isinstance(known, type) and issubclass(known, DspexError) else DspexError
        return _rebuild(
            cls,
            str(data.get("message", "")),
            str(data.get("code", cls.code)),
            bool(data.get("retryable", cls.retryable)),
            dict(data.get("details") or {}),
        )


def _rebuild(cls: type[DspexError], message: str, code: str, retryable: bool, details: dict[str, Any]) -> DspexError:
    error = cls.__new__(cls)
    DspexError.__init__(error, message, code=code, retryable=retryable, **details)
    return error


class SignatureSyntaxError(DspexError):
    """The signature cannot be parsed.

    ``line`` and ``column`` (both from 1) are the position; ``snippet`` is the line with a caret under it; ``expected``
    says what is valid there.
    """

    code = "syntax_error"

    @property
    def line(self) -> int:
        return int(self.details.get("line", 1))

    @property
    def column(self) -> int:
        return int(self.details.get("column", 1))

    @property
    def snippet(self) -> str:
        return str(self.details.get("snippet", ""))

    @property
    def expected(self) -> str:
        return str(self.details.get("expected", ""))


class SignatureTypeError(SignatureSyntaxError):
    """The signature names a type or a constraint that does not exist or does not fit.

    ``code`` is ``unknown_type``, ``unknown_constraint``, ``unknown_field`` (in ``constraints=``), ``invalid_type`` or
    ``invalid_constraint`` (the value does not fit); ``nearest`` is the closest known name, or ``""``.
    """

    code = "unknown_type"

    @property
    def nearest(self) -> str:
        return str(self.details.get("nearest", ""))


@dataclass(frozen=True, slots=True)
class FieldError:
    """An invalid value: its ``path`` (``"history[2]"``), what was ``expected``, the value itself (``got``, shortened;
    empty for a secret), and the violated ``constraint``, or ``None`` if the type is wrong."""

    path: str
    expected: str
    got: str = ""
    constraint: str | None = None

    def __str__(self) -> str:
        got = f", got {self.got}" if self.got else ""
        return f"{self.path}: expected {self.expected}{got}"


class ValidationError(DspexError):
    """The values do not fit: every fault is in ``.errors``."""

    code = "validation_error"

    @classmethod
    def of(cls, what: str, errors: Iterable[FieldError]) -> ValidationError:
        """The error for these faults of ``what``; a ConstraintViolation if all of them are violated constraints."""
        found = list(errors)
        kind = ConstraintViolation if all(e.constraint for e in found) else ValidationError
        return kind(f"{what}: " + "; ".join(map(str, found)), errors=[asdict(e) for e in found])

    @property
    def errors(self) -> Sequence[FieldError]:
        return tuple(FieldError(**e) for e in self.details.get("errors", ()))


class ConstraintViolation(ValidationError):
    """The values have the right types but violate constraints: every fault is in ``.errors``."""

    code = "constraint_violation"


class ProgramNotFound(DspexError):
    """No such program is deployed."""

    code = "program_not_found"


class ProgramUnreadable(ProgramNotFound):
    """The stored program cannot be read here.

    It needs what this installation lacks (an adapter, a type, a newer DSPex), or what is stored is not a program.
    """

    code = "program_unreadable"


class ProgramVersionMismatch(DspexError):
    """The program in hand is not the deployed version."""

    code = "program_version_mismatch"


class SecretInProgram(DspexError):
    """A program contains a secret; name its environment variable instead (api_key_env="OPENAI_API_KEY")."""

    code = "secret_in_program"


class EncryptionError(DspexError):
    """A secret cannot be encrypted or decrypted.

    ``code``: ``encryption_key_missing encryption_key_unknown encryption_unavailable sealed_data_damaged``.
    """

    code = "encryption_error"


class ModuleNotAllowed(DspexError):
    """The program's code is outside the packages listed in DSPEX_PROGRAM_PACKAGES."""

    code = "module_not_allowed"


class RateLimited(DspexError):
    """This client has reached its rate limit (DSPEX_RATE_LIMIT_PER_MINUTE). Nothing was stored."""

    code = "rate_limited"
    retryable = True

    @property
    def retry_after_seconds(self) -> float:
        return float(self.details.get("retry_after_seconds", 0.0))


class ExecutionNotFound(DspexError):
    """No such execution."""

    code = "execution_not_found"


class TransitionRefused(DspexError):
    """The execution's status does not allow it."""

    code = "transition_refused"


class IdempotencyConflict(DspexError):
    """The idempotency key was used before with other inputs."""

    code = "idempotency_conflict"


class AlreadyDecided(DspexError):
    """Somebody else decided about the call first."""

    code = "already_decided"


class ApprovalNotFound(DspexError):
    """No execution waits for a decision about this call."""

    code = "approval_not_found"


class ExecutionFailed(DspexError):
    """The execution failed.

    ``code`` is the code of the recorded failure, ``cause`` the failure itself, ``attempts`` the number of attempts.
    """

    code = "failed"

    @property
    def execution_id(self) -> str:
        return str(self.details.get("execution_id", ""))

    @property
    def attempts(self) -> int:
        return int(self.details.get("attempts", 0))

    @property
    def cause(self) -> DspexError:
        return DspexError.from_dict(self.details.get("cause") or {"message": str(self), "code": self.code})


class ExecutionCancelled(DspexError):
    """The execution was cancelled."""

    code = "cancelled"


class ExecutionTimedOut(DspexError):
    """The result was not ready in time; the execution continues."""

    code = "timed_out"
    retryable = True


class ResultNotReady(DspexError):
    """The execution has not finished."""

    code = "result_not_ready"
    retryable = True


class ModelError(DspexError):
    """A call to a language model failed.

    ``code``: ``provider_unavailable rate_limited model_timeout authentication billing invalid_request
    context_window_exceeded content_filtered unsupported price_unknown output_unparseable model_error``.
    ``retry_after`` is the delay that the provider asks for, in seconds and bounded, or ``None``.
    """

    code = "model_error"

    @property
    def retry_after(self) -> float | None:
        value = self.details.get("retry_after")
        return None if value is None else float(value)


class ProgramError(DspexError):
    """The program's own code raised."""

    code = "program_error"


class ActionFailed(DspexError):
    """A manual action rejected the attempt; ``result`` is what it found.

    With ``retryable=True`` another attempt is made. The action's ``on_failure`` decides whether the attempt fails.
    """

    code = "action_failed"

    @property
    def result(self) -> dict[str, Any]:
        return dict(self.details.get("result") or {})


class LeaseLost(DspexError):
    """This worker no longer owns the attempt: its outcome is discarded."""

    code = "lease_lost"


class MessageRefused(DspexError):
    """The message is damaged or not from DSPex."""

    code = "message_refused"


class AlertNotDelivered(DspexError):
    """A channel could not send an alert."""

    code = "alert_not_delivered"
    retryable = True


class BackendUnavailable(DspexError):
    """Postgres or Redis is unreachable."""

    code = "backend_unavailable"
    retryable = True


class SchemaOutdated(DspexError):
    """The database's schema does not match this version; run `dspex migrate`."""

    code = "schema_outdated"


class ConfigurationError(DspexError):
    """Settings are invalid: every fault is in ``.errors``."""

    code = "configuration_error"

    @property
    def errors(self) -> Sequence[str]:
        return tuple(self.details.get("errors", ()))
