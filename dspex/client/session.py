"""The session of a client: its settings and connections, and what its executions and batches read through them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection
from uuid_utils.compat import uuid7

from dspex.client.audit_trail import AuditTrail
from dspex.client.deployed_programs import Catalogue
from dspex.client.lookup import batch_not_found, not_found
from dspex.client.model_call import ModelCall, ToolCall, model_calls, tool_calls
from dspex.client.operator import Control
from dspex.client.shared.connections import ClientConnections, connect
from dspex.errors import ExecutionTimedOut, FieldError, ValidationError
from dspex.operations.health.backend_checks import client_check
from dspex.program.improvement.rollout_guard import Guard
from dspex.program.program import Program, refuse_secret_headers
from dspex.publish.broker import Broker
from dspex.sealing.values import Sealing
from dspex.settings import Settings
from dspex.settings.failpoints import arm
from dspex.signatures import Signature
from dspex.store import migrate, programs, workers
from dspex.store.database import Database
from dspex.store.improvement import rollouts
from dspex.store.improvement.rollouts import Rollout
from dspex.store.lifecycle import batches, executions, lm_calls
from dspex.store.operations import audit_pages
from dspex.store.programs import Deployed
from dspex.submit.batch_rows import BatchRows
from dspex.submit.prepare import Preparer
from dspex.submit.size_limits import Bounds
from dspex.wait.driver import Driver, Row

__all__ = ["Session"]

T = TypeVar("T")


class Session:
    """What a client shares with its executions and batches. Safe to share between threads.

    Its connections open on first use. A forked child gets new ones: read the attributes at each use.

    Raises BackendUnavailable when no stack is configured or running.
    """

    def __init__(self, settings: Settings) -> None:
        arm(settings.failpoints)
        self.settings = settings
        self._backends = settings.backends()
        self.sealing = Sealing.of(settings)
        self.preparer = Preparer(Bounds.of(settings), self.sealing, webhook_private=settings.webhook_private)
        self._connect()
        _sessions.add(self)

    def _connect(self) -> None:
        """Make everything that owns sockets, threads or locks."""
        self._connections = connect(self.settings, self._backends)
        interval = self.settings.health_interval_seconds
        self.health = client_check(self._backends, interval_seconds=interval)

    def _inherited(self) -> object:
        """What a forked child must neither use nor close."""
        return self._connections

    def close(self) -> None:
        """Close the connections and end the waiting thread."""
        self.connections.close()

    @property
    def connections(self) -> ClientConnections:
        return self._connections

    @property
    def database(self) -> Database:
        return self.connections.database

    @property
    def broker(self) -> Broker:
        return self.connections.broker

    @property
    def driver(self) -> Driver:
        return self.connections.driver

    @property
    def control(self) -> Control:
        return self.connections.control

    @property
    def catalogue(self) -> Catalogue:
        return self.connections.catalogue

    def check_schema(self) -> None:
        """Raise SchemaOutdated unless the database has the schema this version needs."""
        self.database.run(migrate.check)

    def run(self, work: Callable[[Connection], T], connection: Connection | None) -> T:
        """Run ``work`` in the caller's transaction, or on a connection of this session."""
        return self.database.run(work) if connection is None else self.database.within(connection, work)

    def deploy(
        self,
        program: Program,
        *,
        current: bool = True,
        note: str | None = None,
        by: str | None = None,
        candidate: bool = False,
    ) -> Deployed:
        """Store a program, also one of DSPex's own, and make this version the current one unless ``current`` is false.
        A ``candidate`` is a version that an optimiser tries.

        Raises EncryptionError, SecretInProgram, ValidationError: see :meth:`dspex.Client.deploy`.
        """
        if not candidate:
            refuse_secret_headers(program)
        self.sealing.require(program)
        self.preparer.require_webhook(program)
        return self.catalogue.deploy(
            program, self.preparer.bounds, current=current, note=note, by=by, candidate=candidate
        )

    def begin_rollout(self, name: str, version: str, *, percent: float, guard: Guard, by: str | None = None) -> Rollout:
        """See :meth:`dspex.Client.rollout`."""
        faults = list(guard.faults())
        if not isinstance(percent, int | float) or isinstance(percent, bool) or not 0 < percent <= 100:
            faults.append(FieldError("percent", "a number, more than 0 and at most 100", repr(percent)))
        if faults:
            raise ValidationError.of(f"rollout of {name!r}", faults)
        program = self.catalogue.named(name, version)
        begin = partial(
            rollouts.begin, id=uuid7(), program=name, version=program.version, percent=float(percent), guard=guard,
            by=by,
        )  # fmt: skip
        begun = self.database.run(begin)
        if begun is None:
            fault = FieldError("version", "a version that is not the current one", repr(version)[:80])
            raise ValidationError.of(f"rollout of {name!r}", [fault])
        return begun

    # ----------------------------------------------------------------------------------------------- executions

    def row(self, id: UUID, connection: Connection | None = None) -> Row:
        """The row of an execution, as ``connection`` sees it if given. Raises ExecutionNotFound."""
        row = self.run(partial(executions.find, id=id), connection)
        if row is None:
            raise not_found(self.database, id)
        return row

    def rows(self, ids: Collection[UUID]) -> Sequence[Row]:
        """The rows of these executions, as far as they exist."""
        return self.database.run(partial(executions.find_many, ids=ids))

    def signature(self, row: Row) -> Signature:
        """The signature of an execution's program version."""
        return self.catalogue.version(row["program"], row["version"]).signature

    def inputs(self, row: Row) -> dict[str, Any]:
        """The inputs in the row of an execution. Sealed values are ``"<secret>"`` without a key."""
        return self.sealing.values(self.signature(row), "inputs", row["inputs"], row["id"])

    def audit_trail(self, id: UUID) -> AuditTrail:
        """The audit trail of an execution. Raises ExecutionNotFound."""
        chains = self.database.run(partial(audit_pages.of, ids=[id]))
        if not chains:
            raise not_found(self.database, id)
        return AuditTrail(chains[0])

    def model_calls(self, id: UUID, *, sealing: Sealing | None = None) -> list[ModelCall]:
        """The model calls of an execution; with a ``sealing`` in place of the session's. Raises ExecutionNotFound."""
        trail = self.audit_trail(id)
        stored = self.database.run(partial(lm_calls.of_execution, execution_id=id))
        asked = [(call, at) for call, at in stored if call.is_of_model]
        return model_calls(asked, trail, self.sealing if sealing is None else sealing)

    def tool_calls(self, id: UUID) -> list[ToolCall]:
        """The calls of tools of an execution that returned a result."""
        return tool_calls(self.database.run(partial(lm_calls.of_execution, execution_id=id)), self.sealing)

    def timed_out(self, row: Row, timeout: float | None) -> ExecutionTimedOut:
        """The error for a wait that ended too early, with the reason as far as it is known."""
        live = len(self.database.run(workers.listing))
        reason = "" if live else "; no worker is alive: start one with `dspex worker`"
        if why := self.database.run(programs.paused).get(row["program"]):
            reason = f"; its program is paused ({why}): `dspex resume {row['program']}`"
        return ExecutionTimedOut(
            f"execution {row['id']} is {row['status']} after {timeout} s and goes on{reason}",
            execution_id=str(row["id"]), status=str(row["status"]), live_workers=live,
        )  # fmt: skip

    # -------------------------------------------------------------------------------------------------- batches

    def batch_rows(self, id: UUID) -> BatchRows:
        """The stored rows of a batch. Raises ExecutionNotFound when there are none."""
        found = self.database.run(partial(batches.extent, batch_id=id))
        if found is None:
            raise batch_not_found(self.database, id)
        program, size, missing = found
        return BatchRows(id, program, size=size, missing=missing)

    def final_indexes(self, batch_id: UUID, begin: int, end: int) -> Sequence[int]:
        """The indexes, from ``begin`` to before ``end``, of the batch's executions that are final."""
        return self.database.run(partial(batches.final_indexes, batch_id=batch_id, begin=begin, end=end))

    def progress(self, batch_id: UUID) -> Mapping[str, Any]:
        """The counts, cost and rate of a batch, for :meth:`Progress.of`."""
        return self.database.run(partial(batches.progress, batch_id=batch_id))

    def failures(self, batch_id: UUID) -> Mapping[str, int]:
        """How many executions of a batch failed by the code of the cause."""
        return self.database.run(partial(batches.failures, batch_id=batch_id))


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
#: What a forked child inherited and must neither use nor close: the parent uses the same sockets.
_inherited: list[object] = []


def _leave_to_parent() -> None:
    for session in _sessions:
        _inherited.append(session._inherited())
        session._connect()


os.register_at_fork(after_in_child=_leave_to_parent)
