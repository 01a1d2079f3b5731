"""The direct adapter: one structured-output call made from the compiled signature, without DSPy.

A worker that serves only such programs never imports dspy. It has what the engine gives every adapter: journal,
retries, limits, cost and cancellation. An answer that does not fit is sent back once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from dspex.errors import FieldError, ModelError, ValidationError
from dspex.program.program import Program
from workers.adapters.contract import Run
from workers.adapters.direct.direct_prompt import DirectPrompt, check_state, declared, expected_outputs
from workers.answers.candidates import AnswerReading
from workers.answers.characters import replace_halves
from workers.answers.expected import Expected
from workers.lm.connect.endpoint import Endpoint, Endpoints, LocalModelUrl
from workers.lm.connect.local_model import LocalModelAddress
from workers.lm.engine import RunEngine
from workers.lm.exchange import Exchange, begin_exchange
from workers.lm.replay import answer_text
from workers.lm.run_engines import engine_of
from workers.observe.redact import fields_at_fault

__all__ = ["DirectAdapter"]

_PROMPTS_KEPT = 256


class DirectAdapter:
    """Runs ``predict`` programs. ``local_model_url`` is as for
    :class:`workers.adapters.dspy.dspy_adapter.DspyAdapter`."""

    def __init__(self, *, local_model_url: LocalModelUrl | None = None) -> None:
        self._local_model = LocalModelAddress()
        self._endpoints = Endpoints(local_model_url or self._local_model)
        self._prompts: OrderedDict[str, DirectPrompt] = OrderedDict()

    async def prepare(self, program: Program) -> None:
        """Raises ProgramError for a state that does not fit, ModelError for a model that needs what is missing here."""
        check_state(program)
        await self._endpoints.prepare(program)

    async def execute(self, run: Run) -> Mapping[str, Any]:
        """The outputs as the model wrote them, not validated; see :meth:`workers.adapters.contract.Adapter.execute`."""
        engine = await engine_of(run, self._endpoints)
        prompt = self._prompt(run.program, engine.endpoint)
        expected = expected_outputs(run.program.signature)
        with begin_exchange(expected, is_followed=True) as exchange:
            return await _Conversation(run, prompt, engine, exchange, expected).outputs()

    async def close(self) -> None:
        """Close the connections to models."""
        self._prompts.clear()
        self._local_model.close()
        await self._endpoints.aclose()

    def _prompt(self, program: Program, endpoint: Endpoint) -> DirectPrompt:
        prompt = self._prompts.get(program.version)
        if prompt is None:
            prompt = self._prompts[program.version] = DirectPrompt(program, endpoint)
            if len(self._prompts) > _PROMPTS_KEPT:
                self._prompts.popitem(last=False)
        return prompt


class _Conversation:
    """The call, and its repair if the answer is bad."""

    def __init__(
        self, run: Run, prompt: DirectPrompt, engine: RunEngine, exchange: Exchange, expected: Expected
    ) -> None:
        self._run = run
        self._prompt = prompt
        self._engine = engine
        self._exchange = exchange
        self._expected = expected

    async def outputs(self) -> dict[str, Any]:
        request = self._prompt.request(self._run.inputs)
        answer = answer_text(await self._engine.answer(request))
        reading = self._exchange.readings[answer]
        bad = self._judge(reading)
        if bad is None:
            return self._outputs(reading)
        self._exchange.faults = reading.faults or _faults(bad)
        self._run.trail.record(
            "output_validation", valid=False, fields=fields_at_fault(self._exchange.faults), repair=True
        )
        words = "\n".join(self._exchange.correction(was_cut=self._exchange.was_cut))
        correction = self._prompt.correction(request, replace_halves(answer), words, more=self._exchange.was_cut)
        return await self._repaired(correction, bad)

    async def _repaired(self, request: Mapping[str, Any], bad: ModelError | ValidationError) -> dict[str, Any]:
        try:
            answer = answer_text(await self._engine.answer(request))
        except ModelError as error:
            if error.code != "context_window_exceeded":
                raise
            self._reject()
            raise bad from None
        reading = self._exchange.readings[answer]
        still_bad = self._judge(reading)
        if still_bad is not None:
            self._reject()
        if isinstance(still_bad, ModelError):
            raise still_bad
        return self._outputs(reading)

    def _outputs(self, reading: AnswerReading) -> dict[str, Any]:
        self._run.repairs.extend(reading.repairs)
        return declared(self._run.program.signature, reading.values)

    def _judge(self, reading: AnswerReading) -> ModelError | ValidationError | None:
        """The reason why the answer cannot be used, or None."""
        missing = reading.missing(self._expected)
        if reading.problem or missing:
            return self._unparseable(reading, missing)
        try:
            self._run.program.signature.check_outputs(declared(self._run.program.signature, reading.values))
        except ValidationError as error:
            return ValidationError(str(error), code="output_invalid", retryable=True, **error.details)
        return None

    def _unparseable(self, reading: AnswerReading, missing: list[str]) -> ModelError:
        model = self._run.program.model
        return ModelError(
            f"model {model!r}: the answer does not have the form that was asked for: "
            f"{reading.why(missing)}{self._engine.cut_words}",
            code="output_unparseable",
            retryable=not self._engine.was_cut_before_answer(reading),
            model=model,
            missing=missing,
        )

    def _reject(self) -> None:
        self._run.journal.reject(self._exchange.requests)


def _faults(bad: ModelError | ValidationError) -> list[FieldError]:
    if isinstance(bad, ValidationError):
        return list(bad.errors)
    return [FieldError(name, "a value", "nothing") for name in bad.details["missing"]]
