"""Hosting: the inside of an attempt, from a claimed row to valid outputs: program → adapter → validation."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from dspex.errors import ActionFailed, DspexError, EncryptionError, ProgramNotFound, ValidationError
from dspex.program.program import Program
from dspex.sealing.values import Sealing
from workers.actions import Actions
from workers.actions.action_loading import load_actions
from workers.adapters import Adapters
from workers.adapters.contract import Run
from workers.attempt.attempt import Attempt, Hosted
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.fallback import BAD_ANSWERS, may_fall_back
from workers.attempt.ledger import Ledger
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
        """The program, if this worker has hosted it before."""
        return self._programs.get((name, version))

    async def prepare(self, programs: Iterable[Program]) -> None:
        """Load what these programs need, so that no execution waits for an import. Failures are logged."""
        for program in programs:
            try:
                self._sealing.require(program)
            except EncryptionError as error:
                log.error("%s", error)  # noqa: TRY400 - the message is complete
            for name in program.adapters:
                try:
                    await (await self._adapters.get(name)).prepare(program)
                except DspexError as error:
                    log.warning("program %r: adapter %r cannot host it in this worker: %s", program.name, name, error)

    async def run(self, attempt: Attempt) -> Hosted:
        """The attempt's valid outputs. Raises the error that stopped it."""
        claimed, trail = attempt.claimed, attempt.trail
        if claimed.attempt > 1:
            attempt.journal.recall(await self._ledger.calls(claimed.id))
        program = await self._program(claimed.program, claimed.version)
        run = attempt.open(program, self._sealing, self._permits.of(program))
        if program.actions:
            values, adapter = await self._with_actions(run, attempt)
        else:
            values, adapter = await self._outputs(run, attempt)
        began_at = trail.now()
        encoded = program.signature.encode("outputs", values)
        trail.record("result_serialization", began_at=began_at, bytes=len(encoded))
        return Hosted(encoded.decode(), adapter)

    async def _with_actions(self, run: Run, attempt: Attempt) -> tuple[Mapping[str, Any], str]:
        """The same as :meth:`_outputs`, with the program's actions around it."""
        adapter = ""

        async def program() -> Mapping[str, Any]:
            nonlocal adapter
            values, adapter = await self._outputs(run, attempt)
            return values

        actions = Actions(run, attempt.trail, attempt.journal.model_use, attempt.action_results)
        try:
            return await actions.around(program, await load_actions(run.program)), adapter
        except ActionFailed as error:
            if error.retryable:  # the answers are at fault
                attempt.journal.blame()
                await attempt.discard_answers()
            raise

    async def _outputs(self, run: Run, attempt: Attempt) -> tuple[dict[str, Any], str]:
        """The valid outputs, and the adapter that produced them: the first that can, in the program's order.

        When none can, the attempt fails with the first error that another attempt may fix, else with the last one.
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
        raise next((error for error in errors if error.retryable), errors[-1])

    async def _host(self, run: Run, name: str, trail: AttemptTrail) -> dict[str, Any]:
        """The valid outputs of this adapter."""
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
