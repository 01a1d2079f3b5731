"""Hosting: what happens inside an attempt, from a claimed row to its outputs: program → adapter → validation."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from dspex.errors import ActionFailed, DspexError, EncryptionError, ProgramNotFound, ValidationError
from dspex.program.program import Program
from dspex.sealing.values import Sealing
from dspex.store.lifecycle.executions import Claimed, Settlement
from dspex.store.lifecycle.status import Status
from workers.actions import Actions
from workers.actions.action_loading import load_actions
from workers.adapters import Adapters
from workers.adapters.contract import Run, Stream
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.ledger import Ledger
from workers.attempt.retry_policy import BAD_ANSWERS, may_fall_back
from workers.attempt.settlement import record
from workers.attempt.stream import StreamWithout
from workers.lm.journal import AttemptJournal
from workers.lm.limits.permits import Permits
from workers.observe.redact import fields_at_fault

__all__ = ["Host"]

log = logging.getLogger("dspex.workers")


class Host:
    """Hosts the attempts of a worker; it knows the programs and has their adapters."""

    def __init__(self, ledger: Ledger, adapters: Adapters, permits: Permits, sealing: Sealing) -> None:
        self._ledger = ledger
        self._sealing = sealing
        self._permits = permits
        self._adapters = adapters
        self._programs: dict[tuple[str, str], Program] = {}

    def known(self, name: str, version: str) -> Program | None:
        """The program, if an attempt at it was hosted before."""
        return self._programs.get((name, version))

    async def prepare(self, programs: Iterable[Program]) -> None:
        """Load what these programs need, so that no execution waits for an import. What cannot be loaded is logged."""
        for program in programs:
            try:
                self._sealing.require(program)
            except EncryptionError as error:
                log.error("%s", error)  # noqa: TRY400 - the message says it all
            for name in program.adapters:
                try:
                    await (await self._adapters.get(name)).prepare(program)
                except DspexError as error:
                    log.warning("program %r: adapter %r cannot host it in this worker: %s", program.name, name, error)

    async def run(
        self, claimed: Claimed, trail: AttemptTrail, journal: AttemptJournal, stream: Stream | None = None
    ) -> Settlement:
        """See the attempt through to its valid outputs, and say how to record them. Raises what stopped it."""
        deadline = time.monotonic() + claimed.timeout_seconds
        if claimed.attempt > 1:
            journal.recall(await self._ledger.calls(claimed.id))
        program = await self._program(claimed.program, claimed.version)
        journal.keeps = program.journal
        journal.limits = self._permits.of(program)
        journal.sealed = self._sealing.attempt(program, claimed.inputs, claimed.id)
        inputs = self._sealing.values(program.signature, "inputs", claimed.inputs, claimed.id)
        if stream is not None and journal.sealed is not None:
            stream = StreamWithout(stream, journal.sealed.hidden_outputs)
        run = Run(claimed.id, claimed.attempt, program, inputs, journal, trail, deadline, stream)
        try:
            values, adapter = await self._with_actions(run, trail, journal)
        except DspexError:
            if journal.deferred is not None:  # whatever the program made of it
                raise journal.deferred from None
            raise
        began_at = trail.now()
        encoded = program.signature.encode("outputs", values)
        trail.record("result_serialization", began_at=began_at, bytes=len(encoded))
        trail.record("completed")
        return record(claimed, Status.COMPLETED, result=encoded.decode(), adapter_used=adapter)

    async def _with_actions(
        self, run: Run, trail: AttemptTrail, journal: AttemptJournal
    ) -> tuple[Mapping[str, Any], str]:
        """The same as :meth:`_outputs`, with the program's actions around it."""
        if not run.program.actions:
            return await self._outputs(run, trail, journal)
        adapter = ""

        async def program() -> Mapping[str, Any]:
            nonlocal adapter
            values, adapter = await self._outputs(run, trail, journal)
            return values

        actions = Actions(run, trail, journal.model_use)
        trail.action_results = actions.results
        try:
            return await actions.around(program, await load_actions(run.program)), adapter
        except ActionFailed as error:
            if error.retryable:  # the answers are at fault
                journal.blame()
                await journal.discard()
            raise

    async def _outputs(self, run: Run, trail: AttemptTrail, journal: AttemptJournal) -> tuple[dict[str, Any], str]:
        """The valid outputs, and the adapter that gave them: the first that can, in the program's order.

        When none can, the attempt fails with the first error that another attempt may mend, else with the last one.
        """
        errors: list[DspexError] = []
        for name in run.program.adapters:
            try:
                return await self._host(run, name, trail), name
            except DspexError as error:
                if error.code in BAD_ANSWERS:
                    journal.blame()
                errors.append(error)
                if not may_fall_back(error):
                    raise
        await journal.discard()
        raise next((error for error in errors if error.retryable), errors[-1])

    async def _host(self, run: Run, name: str, trail: AttemptTrail) -> dict[str, Any]:
        """The valid outputs that this adapter gives."""
        began_at = trail.now()
        noted: dict[str, Any] = {"adapter": name, "module": run.program.module}
        try:
            raw = await (await self._adapters.get(name)).execute(run)
            return _validated(run.program, raw, trail)
        except DspexError as error:
            noted["error"] = error.code
            raise
        finally:
            trail.record("adapter_execution", began_at=began_at, **noted)

    async def _program(self, name: str, version: str) -> Program:
        known = self._programs.get((name, version))
        if known is None:
            content = await self._ledger.program(name, version)
            if content is None:
                raise ProgramNotFound(f"program {name!r} has no version {version}", program=name, version=version)
            known = self._programs[name, version] = Program.from_content(name, json.loads(content))
        return known


def _validated(program: Program, raw: Mapping[str, Any], trail: AttemptTrail) -> dict[str, Any]:
    began_at = trail.now()
    try:
        checked = program.signature.check_outputs(raw)
    except ValidationError as error:
        trail.record("output_validation", began_at=began_at, fields=fields_at_fault(error.errors), valid=False)
        raise ValidationError(str(error), code="output_invalid", retryable=True, **error.details) from None
    repairs = [{"path": repair.path, "what": repair.what} for repair in checked.repairs]
    trail.record("output_validation", began_at=began_at, valid=True, repairs=repairs)
    return checked.values
