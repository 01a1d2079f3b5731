"""Optimisations as a principal may see them: a job is an execution, and its rollouts are executions of the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from dspex.client.execution import AsyncExecution
from dspex.client.improvement.optimization import OptimizationProgress, TriedVersion, find_optimization
from dspex.client.session import Session
from dspex.client.shown.execution_data import shown_values
from dspex.errors import ExecutionNotFound
from dspex.serve.access.principal import Principal
from dspex.serve.gateway import Gateway
from dspex.store.improvement import optimizations
from dspex.wait.driver import Row

__all__ = ["SeenOptimization", "TriedVersions", "seen_optimization", "seen_optimizations", "tried_versions"]


@dataclass(frozen=True, slots=True)
class SeenOptimization:
    """A job: what it was asked to do (``task``), and its result, which is empty until it has completed."""

    execution: AsyncExecution
    program: str
    task: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def id(self) -> UUID:
        return self.execution.id

    @property
    def version(self) -> str | None:
        """The best version, which is deployed."""
        return self.result.get("version")

    @property
    def score(self) -> float | None:
        """The score of the best version."""
        return self.result.get("score")

    @property
    def ended(self) -> str | None:
        """``complete`` or ``budget spent``; None until it has completed."""
        found: str | None = self.result.get("report", {}).get("ended")
        return found


@dataclass(frozen=True, slots=True)
class TriedVersions:
    """What a job has tried, and what that took."""

    candidates: Sequence[TriedVersion]
    progress: OptimizationProgress


async def seen_optimization(gateway: Gateway, principal: Principal, id: str) -> SeenOptimization:
    """The job with this id. Raises ExecutionNotFound, also for one that this principal may not see."""
    missing = ExecutionNotFound(f"no optimisation {id[:60]!r}; `dspex optimize` begins one", execution_id=id[:60])
    try:
        wanted = UUID(id)
    except ValueError:
        raise missing from None
    found = await gateway.call(_read, gateway.session, [wanted])
    if not found or not principal.sees({"program": found[0].program, "tenant": None}):
        raise missing
    return found[0]


async def seen_optimizations(
    gateway: Gateway, principal: Principal, *, program: str | None = None, before: UUID | None = None, limit: int
) -> tuple[Sequence[SeenOptimization], UUID | None]:
    """A page of jobs, the newest first, and the id to continue before; None after the last page."""
    if program is not None:
        principal.require_program(program)
    if principal.tenant is not None:  # jobs belong to no tenant
        return [], None
    programs = None if principal.programs is None else sorted(principal.programs)

    def read() -> tuple[Sequence[SeenOptimization], UUID | None]:
        ask = partial(optimizations.listing, program=program, programs=programs, before=before, most=limit + 1)
        ids = gateway.session.database.run(ask)
        return _read(gateway.session, ids[:limit]), ids[limit - 1] if len(ids) > limit else None

    return await gateway.call(read)


async def tried_versions(gateway: Gateway, found: SeenOptimization) -> TriedVersions:
    """The versions that a job has tried so far."""

    def read() -> TriedVersions:
        job = find_optimization(gateway.session, found.id)
        return TriedVersions(job.candidates(states=False), job.progress)

    return await gateway.call(read)


def _read(session: Session, ids: Sequence[UUID]) -> Sequence[SeenOptimization]:
    """The jobs among these executions, in this order."""
    rows = {row["id"]: row for row in session.rows(ids)}
    return [_seen(session, rows[id]) for id in ids if id in rows and "optimizes" in (rows[id]["purpose"] or {})]


def _seen(session: Session, row: Row) -> SeenOptimization:
    inputs, result = shown_values(session, row)
    return SeenOptimization(AsyncExecution(session, row), row["purpose"]["optimizes"], inputs["task"], result or {})
