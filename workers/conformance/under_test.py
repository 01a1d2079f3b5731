"""The adapter under test, as its package declares it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from dspex.program.adapters import adapters
from dspex.program.program import Program
from workers.adapters.contract import Adapter
from workers.conformance.attempts import History
from workers.conformance.running import Check, judged, run_check

__all__ = ["AdapterUnderTest"]


class AdapterUnderTest:
    """The adapter, and the programs that the checks need. A subclass defines them."""

    #: The adapter's name in the registry.
    adapter: ClassVar[str]
    #: The longest that one check may take, in seconds. Only a failing check takes so long.
    patience_seconds: ClassVar[float] = 30.0

    def answering(self, **fields: Any) -> Program:
        """A program whose outputs depend on its inputs and nothing else; with these ``fields`` of Program changed.

        Model calls, if it makes any, are answered at once.
        """
        raise NotImplementedError("define answering(): a program that answers")

    def inputs(self, number: int) -> Mapping[str, Any]:
        """Inputs of the programs, different for each number."""
        return {"question": f"What does conformance check number {number} ask?"}

    def fields_for(self, module: str) -> Mapping[str, Any] | None:
        """The fields that :meth:`answering` needs besides ``module=`` for this module; None if it cannot run here."""
        return {}

    def hanging(self) -> Program | None:
        """A program whose model call is never answered; None for an adapter that never waits."""
        raise NotImplementedError("define hanging(): a program that hangs, or None")

    def failing(self) -> tuple[Program, str] | None:
        """A program whose model or service fails, and the expected code; None if no call can fail."""
        raise NotImplementedError("define failing(): a program that fails and its code, or None")

    def rambling(self) -> Program | None:
        """A program whose model's answers do not fit its signature; None if that is impossible."""
        raise NotImplementedError("define rambling(): a program whose answers do not fit, or None")

    # how checks are run

    def _run_once(self, program: Program) -> None:
        async def check(adapter: Adapter) -> None:
            await adapter.prepare(program)
            judged(program, await adapter.execute(History(program, self.inputs(0)).attempt().run))

        self._run(check)

    def _run(self, check: Check) -> None:
        run_check(self.adapter, check, self.patience_seconds)

    def _given(self, value: Any, why: str) -> Any:
        if value is None:
            if adapters()[self.adapter].capabilities.calls_models:
                pytest.fail(f"this is not true of an adapter that calls models: {why}")
            pytest.skip(why)
        return value
