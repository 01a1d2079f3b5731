"""Hosting: the inside of an attempt, from a claimed row to valid outputs: program → adapter → validation."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast
from uuid import UUID

import psycopg

from dspex.errors import ActionFailed, ConfigurationError, DspexError, ProgramNotFound, ValidationError
from dspex.program.improvement.purpose import Purpose
from dspex.program.program import Program
from dspex.program.stored_program import StoredProgram
from dspex.scoring.builtin_metrics import BUILT_IN_METRICS
from dspex.scoring.judges import judge_of
from dspex.sealing.values import Sealing
from dspex.store.lifecycle.executions import Claimed
from dspex.store.lifecycle.lm_calls import LMCall
from dspex.store.lifecycle.parked import ParkedCall
from dspex.store.lifecycle.status import Status
from workers.actions import Actions
from workers.actions.action_loading import load_actions
from workers.actions.judging import judge_metric
from workers.actions.scoring import METRIC_ACTION, BoundMetric, MetricHost, built_in_metric, scored_row
from workers.adapters import Adapters
from workers.adapters.contract import Run
from workers.adapters.signature_limits import unkept_limits
from workers.adapters.unrunnable import LACKS_KEY, RUNS_ELSEWHERE, UnrunnablePrograms
from workers.attempt.attempt import NO_PURPOSE, Attempt, Hosted
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.fallback import BAD_ANSWERS, may_fall_back
from workers.attempt.ledger import Ledger
from workers.attempt.supervision import ends_task
from workers.attempt.waiting.children import Children
from workers.lm.limits.permits import Permits
from workers.observe import metrics
from workers.observe.redact import fields_at_fault

__all__ = ["Host"]

log = logging.getLogger("dspex.workers")

#: Among the results of actions, the calls of the program's predictors.
TRACE = "trace"
#: How often a version is tried again that this worker cannot run.
RETRY_SECONDS = 60.0


class Host:
    """Hosts the attempts of a worker; it knows the programs and has their adapters.

    A version that it cannot run is added to ``unrunnable``, and tried again now and then.
    """

    def __init__(
        self,
        ledger: Ledger,
        adapters: Adapters,
        permits: Permits,
        sealing: Sealing,
        unrunnable: UnrunnablePrograms,
        children: Children | None = None,
    ) -> None:
        self._ledger = ledger
        self._unrunnable = unrunnable
        self._sealing = sealing
        self._permits = permits
        self._adapters = adapters
        self._children = children
        self._programs: dict[tuple[str, str], Program] = {}
        self._retrying: asyncio.Task[None] | None = None

    def known(self, name: str, version: str) -> Program | None:
        """The program, if this worker has hosted it before."""
        return self._programs.get((name, version))

    def start(self) -> None:
        self._retrying = asyncio.create_task(self._retry_now_and_then(), name="dspex-unrunnable")

    async def close(self) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.gather(self._retrying, return_exceptions=True)

    async def prepare(self, programs: Iterable[StoredProgram]) -> None:
        """Load what these programs need, so that no execution waits for an import. Failures are logged."""
        for stored in programs:
            try:
                await self._prepare(stored.read())
            except ConfigurationError:  # this installation is at fault: it serves no program
                raise
            except DspexError as error:
                self._note(stored.name, stored.version, error)

    async def _prepare(self, program: Program) -> None:
        """Raises EncryptionError without a key for secret fields, and the last adapter's error if this worker lacks
        what each of them needs; other failures are logged."""
        self._sealing.require(program)
        missing = [lack for name in program.adapters if (lack := await self._prepare_adapter(name, program))]
        if len(missing) == len(program.adapters):
            raise missing[-1]
        if program.actions:
            await load_actions(program)

    async def _prepare_adapter(self, name: str, program: Program) -> DspexError | None:
        """Returns the error if this worker lacks what the adapter needs."""
        try:
            await (await self._adapters.get(name)).prepare(program)
        except DspexError as error:
            log.warning("program %r: adapter %r cannot host it in this worker: %s", program.name, name, error)
            return error if error.code in RUNS_ELSEWHERE else None
        except BaseException as error:  # the boundary to code that may not be ours: the worker starts all the same
            if ends_task(error):
                raise
            log.error("program %r: adapter %r raised %s", program.name, name, type(error).__name__)  # noqa: TRY400
        return None

    def _note(self, name: str, version: str, error: DspexError) -> None:
        """Remember a version that this worker cannot run. Any other error is logged, and raised by its executions."""
        if error.code in RUNS_ELSEWHERE | LACKS_KEY:
            self._unrunnable.add(name, version, error)
        else:
            log.warning("program %r, version %s: %s", name, version, error)

    async def _retry_now_and_then(self) -> None:
        """What kept a version from running may pass: a server that its code needs to be imported, for example."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            for name, version, _ in self._unrunnable.versions:
                try:
                    stored = await self._ledger.program(name, version)
                    if stored is not None:
                        await self._prepare(stored.read())
                except DspexError as error:
                    if error.code in RUNS_ELSEWHERE | LACKS_KEY:
                        continue
                except psycopg.Error as error:
                    log.warning("program %r, version %s cannot be read: %s", name, version, type(error).__name__)
                    continue
                self._unrunnable.remove(name, version)

    async def run(self, attempt: Attempt) -> Hosted:
        """The attempt's valid outputs. Raises the error that stopped it."""
        try:
            return await self._hosted(attempt)
        except DspexError as error:
            self._note_lack(attempt, error)
            raise

    def _note_lack(self, attempt: Attempt, error: DspexError) -> None:
        """Remember what this worker lacks to run the version, or the execution alone."""
        name, version = attempt.claimed.program, attempt.claimed.version
        program = self.known(name, version)
        without_any = self._sealing.keyring is None and program is not None and program.signature.secret_fields
        if error.code in RUNS_ELSEWHERE or (error.code in LACKS_KEY and without_any):
            self._unrunnable.add(name, version, error)
        elif error.code in LACKS_KEY:
            self._unrunnable.note_lacking_key(name, error)

    async def _hosted(self, attempt: Attempt) -> Hosted:
        claimed, trail = attempt.claimed, attempt.trail
        purpose = NO_PURPOSE if claimed.purpose is None else Purpose.read(claimed.purpose)
        if claimed.attempt > 1 or claimed.is_adopted:
            stored, waited_for = await asyncio.gather(
                self._ledger.calls(claimed.id), self._ledger.waited_for(claimed.id)
            )
            attempt.journal.recall(await self._without_failed_children(claimed, stored))
            attempt.journal.recall_waits(waited_for)
        program = await self._program(claimed.program, claimed.version)
        # The requests of sealed executions are hashed with a secret of their own, so that none finds an answer there.
        if purpose.replay is not None and not self._sealing.covers(program.signature):
            attempt.journal.lend(await self._ledger.calls(purpose.replay))
        limits = self._permits.of(program, purpose.budget)
        run = attempt.open(program, self._sealing, limits, self._children, purpose)
        metric = None if purpose.metric is None else await self._metric(run, purpose)
        if claimed.same_as is not None and (taken := await self._taken_over(run, attempt, claimed.same_as)) is not None:
            values, adapter = taken
        elif program.actions or metric is not None:
            values, adapter = await self._with_actions(run, attempt, metric)
        else:
            values, adapter = await self._outputs(run, attempt)
        if run.traced:
            attempt.action_results[TRACE] = {"ok": True, "result": run.traced}
        began_at = trail.now()
        encoded = program.signature.encode("outputs", values)
        trail.record("result_serialization", began_at=began_at, bytes=len(encoded))
        return Hosted(encoded.decode(), adapter)

    async def _without_failed_children(self, claimed: Claimed, stored: Sequence[LMCall]) -> Sequence[LMCall]:
        """A journal without the failures of children from before an operator's retry, which queued those children, too:
        their parent waits for them once more. Calls keep their numbers, so that they mean the same children."""
        failed = [call for call in stored if call.is_failed_child and not call.rejected]
        if failed and (before := await self._ledger.retried_after(claimed.id)):
            stale = {call.request_hash for call in failed if call.attempt <= before}
            await self._ledger.reject_calls(claimed.id, claimed.attempt, sorted(stale))
            stored = [call for call in stored if call.request_hash not in stale]
        return [call for call in stored if not (call.rejected and call.is_child)]

    async def _taken_over(self, run: Run, attempt: Attempt, id: UUID) -> tuple[Mapping[str, Any], str] | None:
        """The outputs of the equal execution once it completed; None when it has none. Waits for it, and the attempt is
        left."""
        equal = await self._ledger.equal(id)
        if equal is None or (equal.status.is_final and equal.status is not Status.COMPLETED) or equal.is_cancelling:
            return None
        if equal.result is None:
            hashed = hashlib.sha256(f"equal:{id}".encode()).digest()
            occurrence = attempt.journal.begin(hashed)
            await attempt.parking.wait(ParkedCall(hashed, occurrence, "child", run.program.name, child_id=id))
        attempt.trail.record("deduplicated", execution=str(id))
        values = self._sealing.values(run.program.signature, "outputs", str(equal.result), id)
        return values, equal.adapter_used or ""

    async def _metric(self, run: Run, purpose: Purpose) -> BoundMetric:
        """The metric that scores the outputs, with its row of the dataset: all that can be missing is found before
        the program runs."""
        assert purpose.metric is not None
        stored = None if purpose.dataset is None else await self._ledger.dataset_row(purpose.dataset, purpose.row)
        row = scored_row(purpose, stored, self._sealing)
        if purpose.metric in BUILT_IN_METRICS:
            return BoundMetric(purpose, row, built_in_metric(purpose.metric))
        if (named := judge_of(purpose.metric)) is not None:
            judge = await self._program(named[0], named[1] or "")
            return BoundMetric(purpose, row, judge_metric(run, judge, partial(self._adapters.get, judge.adapters[0])))
        host = cast("MetricHost", await self._adapters.get("dspy"))
        return BoundMetric(purpose, row, await host.metric(run, purpose.metric))

    async def _with_actions(
        self, run: Run, attempt: Attempt, metric: BoundMetric | None
    ) -> tuple[Mapping[str, Any], str]:
        """The same as :meth:`_outputs`, with the program's actions around it, and a metric around all of them."""
        adapter = ""

        async def program() -> Mapping[str, Any]:
            nonlocal adapter
            values, adapter = await self._outputs(run, attempt)
            return values

        actions = Actions(run, attempt.trail, attempt.journal.model_use, attempt.action_results)
        try:
            outermost = None if metric is None else (METRIC_ACTION, metric.action(attempt.note_score))
            return await actions.around(program, await load_actions(run.program), outermost), adapter
        except ActionFailed as error:
            if error.retryable:  # the answers are at fault
                attempt.journal.blame()
                await attempt.discard_answers()
            raise

    async def _outputs(self, run: Run, attempt: Attempt) -> tuple[dict[str, Any], str]:
        """The valid outputs, and the adapter that produced them: the first that can, in the program's order.

        When none can, the attempt fails with the first error that another attempt may fix, else with the last one. An
        adapter that this worker lacks counts only if it lacks all of them.
        """
        errors: list[DspexError] = []
        for name in run.program.adapters:
            try:
                return await self._host(run, name, attempt.trail), name
            except DspexError as error:
                if error.code in BAD_ANSWERS:
                    attempt.journal.blame()
                errors.append(error)
                if not may_fall_back(error):
                    raise
        await attempt.discard_answers()
        errors = [error for error in errors if error.code not in RUNS_ELSEWHERE] or errors
        raise next((error for error in errors if error.retryable), errors[-1])

    async def _host(self, run: Run, name: str, trail: AttemptTrail) -> dict[str, Any]:
        """The valid outputs of this adapter."""
        began_at = trail.now()
        noted: dict[str, Any] = {"adapter": name, "module": run.program.module}
        try:
            run.repairs.clear()
            run.extra.clear()
            raw = await (await self._adapters.get(name)).execute(run)
            return _validated(run, raw, trail)
        except DspexError as error:
            noted["error"] = error.code
            raise
        finally:
            trail.record("adapter_execution", began_at=began_at, **noted)

    async def _program(self, name: str, version: str) -> Program:
        known = self._programs.get((name, version))
        if known is None:
            stored = await self._ledger.program(name, version)
            if stored is None:
                raise ProgramNotFound(f"program {name!r} has no version {version}", program=name, version=version)
            known = self._programs[name, version] = stored.read()
        return known


def _validated(run: Run, raw: Mapping[str, Any], trail: AttemptTrail) -> dict[str, Any]:
    began_at = trail.now()
    try:
        checked = run.program.signature.check_outputs(raw)
    except ValidationError as error:
        trail.record("output_validation", began_at=began_at, fields=fields_at_fault(error.errors), valid=False)
        text = f"{error}{unkept_limits(run.program, error)}"
        raise ValidationError(text, code="output_invalid", retryable=True, **error.details) from None
    made = [*run.repairs, *((repair.path, repair.what) for repair in checked.repairs)]
    for _, what in made:
        metrics.answer_repaired(what, str(run.program.model))
    repairs = [{"path": path, "what": what} for path, what in dict.fromkeys(made)] if made else []
    trail.record("output_validation", began_at=began_at, valid=True, repairs=repairs)
    return checked.values
