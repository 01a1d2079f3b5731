"""Preparing a submission: validation, encoding and size limits of the inputs, and the first audit events."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from dspex.errors import FieldError, ValidationError
from dspex.program.calls.routes import CallsRoute, read_span, route_faults
from dspex.program.calls.webhook_address import webhook_faults
from dspex.program.nesting import depth_fault
from dspex.program.program import Program
from dspex.program.storable_text import STORABLE
from dspex.sealing.values import Sealing
from dspex.store.audit_chain import encode_events
from dspex.store.lifecycle.executions import Submission
from dspex.submit.size_limits import DEPTH_SETTING, Bounds

__all__ = ["NUMBERS", "RUN_AFTER", "RUN_BEFORE", "Preparer", "RowOptions", "prepare_row"]

#: Every ``run_at`` is between these, so that it is a time in each time zone. The table of executions checks the same.
RUN_AFTER, RUN_BEFORE = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
#: For so many programs and priorities the options of the usual submit are kept.
USUAL_MOST = 256
#: What stands for the numbers that differ by row in the text of the first audit events.
NUMBERS = '"bytes":0,"duration_ms":0'
_NO_ID = UUID(int=0)
_SHARED = slice(Submission._fields.index("program"), Submission._fields.index("batch_id"))
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class RowOptions:
    """The validated options that all rows of one submit share.

    ``bounds`` limit the inputs of each row. ``sealing`` is None unless the program has sealed fields. ``webhook`` is
    where the outcome of the execution, or of the batch, is posted. ``events_around`` is the text of the first audit
    events, before and after the numbers that differ by row. ``shared`` are the values of each Submission from
    ``program`` to ``purpose``.
    """

    program: Program
    bounds: Bounds
    sealing: Sealing | None
    tenant: str | None
    webhook: str | None
    events_around: tuple[str, str]
    shared: tuple[Any, ...]


def prepare_row(
    options: RowOptions,
    inputs: Mapping[str, Any],
    id: UUID,
    batch_id: UUID | None = None,
    batch_index: int | None = None,
) -> Submission:
    """The submission of these inputs. Raises ValidationError."""
    began = time.perf_counter()
    program = options.program
    try:
        values = program.signature.validate_inputs(inputs)
        encoded = program.signature.encode("inputs", values)
        faults = list(options.bounds.input_faults(values, encoded))
    except RecursionError:
        faults = [depth_fault("inputs", options.bounds.max_input_depth, DEPTH_SETTING)]
    if faults:
        raise ValidationError.of(f"submit to {program.name!r}", faults)
    stored = encoded.decode()
    if options.sealing is not None:
        stored = options.sealing.seal_values(program.signature, "inputs", encoded, id)
    before, after = options.events_around
    validated_ms = (time.perf_counter() - began) * 1000
    events = f'{before}"bytes":{len(encoded)},"duration_ms":{validated_ms:.3f}{after}'
    webhook = options.webhook if batch_id is None else None
    # Each row of a large batch comes here: to name what all rows share would take half as long again.
    return Submission._make((id, stored, events, *options.shared, batch_id, webhook, batch_index, None))


class Preparer:
    """Makes submissions within ``bounds``, sealed as ``sealing`` requires.

    ``webhook_private``: webhooks may be sent to private networks.
    """

    def __init__(self, bounds: Bounds, sealing: Sealing, *, webhook_private: bool = False) -> None:
        self.bounds = bounds
        self._sealing = sealing
        self._webhook_private = webhook_private
        #: The options of submits that give none but a priority, by the program's identity; each keeps its program.
        self._usual: dict[tuple[int, int], RowOptions] = {}

    def prepare(
        self,
        program: Program,
        inputs: Mapping[str, Any],
        *,
        priority: int = 5,
        run_at: datetime | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        webhook: str | None = None,
        route: str | None = None,
        within: str | float | None = None,
        otherwise: str | None = None,
        purpose: Mapping[str, Any] | None = None,
        faults: Sequence[FieldError] = (),
    ) -> Submission:
        """The submission. Raises ValidationError with all faults; ``faults`` were found by the caller."""
        wrong = list(faults)
        if not isinstance(inputs, Mapping):
            wrong.append(FieldError("inputs", "a mapping of field names to values", type(inputs).__name__))
        is_usual = (
            run_at is None and timeout is None and metadata is None and tenant is None and webhook is None
            and route is None and within is None and otherwise is None and purpose is None
            and type(priority) is int and not wrong
        )  # fmt: skip
        options = self._usual.get((id(program), priority)) if is_usual else None
        if options is None:
            options = self.options(
                program, priority=priority, run_at=run_at, timeout=timeout, metadata=metadata, tenant=tenant,
                webhook=webhook, route=route, within=within, otherwise=otherwise, purpose=purpose, faults=wrong,
            )  # fmt: skip
            if is_usual:
                if len(self._usual) >= USUAL_MOST:
                    self._usual.clear()
                self._usual[id(program), priority] = options
        return prepare_row(options, inputs, uuid7())

    def options(
        self,
        program: Program,
        *,
        priority: int = 5,
        run_at: datetime | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        webhook: str | None = None,
        route: str | None = None,
        within: str | float | None = None,
        otherwise: str | None = None,
        purpose: Mapping[str, Any] | None = None,
        faults: Sequence[FieldError] = (),
    ) -> RowOptions:
        """The options that all rows of a submit share.

        Without a ``webhook`` it is the program's, except for what is submitted for an evaluation and the like.

        Raises ValidationError with all faults, of which ``faults`` were found by the caller, and EncryptionError for a
        program with secret fields when no key is set.
        """
        self._sealing.require(program)
        own_route, route_errors = _own_route(program, route, within, otherwise)
        wrong = [
            *faults,
            *_option_faults(priority, run_at, timeout),
            *_tenant_faults(tenant),
            *webhook_faults(webhook, private=self._webhook_private),
            *route_errors,
        ]
        if wrong:
            raise ValidationError.of(f"submit to {program.name!r}", wrong)
        if webhook is None and purpose is None:
            webhook = program.webhook
        seconds = float(timeout if timeout is not None else program.timeout)
        kept = self._metadata(program, metadata)
        shared = (program.name, program.version, program.signature.fingerprint, priority, tenant)
        around = _usual_events(*shared) if purpose is None else _events_around(*shared, purpose)
        sealing = self._sealing if self._sealing.covers(program.signature) else None
        first = Submission(
            id=_NO_ID, inputs="", events="", program=program.name, version=program.version, priority=priority,
            max_attempts=program.retry.max_attempts, timeout_seconds=seconds, run_at=run_at, metadata=kept,
            tenant=tenant, route=own_route, purpose=None if purpose is None else json.dumps(purpose),
        )  # fmt: skip
        return RowOptions(program, self.bounds, sealing, tenant, webhook, around, tuple(first)[_SHARED])

    def require_webhook(self, program: Program) -> None:
        """Raise ValidationError unless the program's webhook may be sent."""
        if faults := webhook_faults(program.webhook, private=self._webhook_private):
            raise ValidationError.of(f"program {program.name!r}", faults)

    def _metadata(self, program: Program, metadata: Mapping[str, Any] | None) -> str | None:
        if metadata is None:
            return None
        try:
            text = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
            faults = list(self.bounds.metadata_faults(metadata, text.encode()))
        except RecursionError:
            faults = [depth_fault("metadata", self.bounds.max_input_depth, DEPTH_SETTING)]
        except UnicodeEncodeError:
            faults = [FieldError("metadata", STORABLE)]
        except (TypeError, ValueError) as error:
            faults = [FieldError("metadata", f"JSON-friendly data ({error})")]
        if faults:
            raise ValidationError.of(f"submit to {program.name!r}", faults)
        return text


@lru_cache(maxsize=256)
def _usual_events(name: str, version: str, fingerprint: str, priority: int, tenant: str | None) -> tuple[str, str]:
    """The first audit events of what is not submitted for an evaluation or the like: see :func:`_events_around`."""
    return _events_around(name, version, fingerprint, priority, tenant, None)


def _events_around(
    name: str, version: str, fingerprint: str, priority: int, tenant: str | None, purpose: Mapping[str, Any] | None
) -> tuple[str, str]:
    """The first audit events of an execution, as the text before its own two numbers and the text after them."""
    submitted: dict[str, Any] = {"program": name, "version": version, "priority": priority}
    if tenant is not None:
        submitted["tenant"] = tenant
    if purpose is not None:
        submitted["purpose"] = dict(purpose)
    text = encode_events(
        [
            {"kind": "signature_compilation", "data": {"fingerprint": fingerprint}},
            {"kind": "input_validation", "data": {"bytes": 0, "duration_ms": 0}},
            {"kind": "submitted", "data": submitted},
        ]
    )
    before, _, after = text.partition(NUMBERS)
    return before, after


def _own_route(
    program: Program, route: str | None, within: str | float | None, otherwise: str | None
) -> tuple[str | None, list[FieldError]]:
    """The route to store, None where it is the program's, and the faults of what was given."""
    if route is None and within is None and otherwise is None:
        return None, []
    way = (
        program.route if route is None else route,
        program.within if within is None else within,
        program.otherwise if otherwise is None else otherwise,
    )
    faults = list(route_faults(*way))
    if way[0] == "batch" and not program.keeps_answers:
        faults.append(FieldError("route", "another route: the program keeps no answers (journal, record)", "'batch'"))
    return (None if faults else str(CallsRoute(way[0], read_span(way[1]) or 0.0, way[2]))), faults


def _option_faults(priority: object, run_at: object, timeout: object) -> list[FieldError]:
    faults = []
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 9:
        faults.append(FieldError("priority", "an integer from 0 (first) to 9", repr(priority)))
    if run_at is not None and not (isinstance(run_at, datetime) and run_at.utcoffset() is not None):
        faults.append(FieldError("run_at", "a datetime with a time zone", repr(run_at)))
    elif run_at is not None and not RUN_AFTER < run_at < RUN_BEFORE:
        expected = f"a moment after {RUN_AFTER.date()} and before {RUN_BEFORE.date()} in UTC"
        faults.append(FieldError("run_at", expected, repr(run_at)))
    if timeout is not None and not (
        isinstance(timeout, int | float) and not isinstance(timeout, bool) and 0 < timeout <= 86_400
    ):
        faults.append(FieldError("timeout", "seconds, more than 0 and at most 86400", repr(timeout)))
    return faults


def _tenant_faults(tenant: object) -> list[FieldError]:
    if tenant is None or (isinstance(tenant, str) and _TENANT.fullmatch(tenant)):
        return []
    return [FieldError("tenant", "1 to 64 of the characters A-Z a-z 0-9 _ . -", repr(tenant)[:80])]
