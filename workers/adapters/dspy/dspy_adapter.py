"""The DSPy adapter: hosts a program's module on the worker's loop, hundreds of runs at once.

A module is built once per program version (workers/adapters/dspy/modules/). Everything that belongs to one run
(model, journal, trace) is in the run's ``dspy.context``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.adapters.baml_adapter import BAMLAdapter
from dspy.utils.exceptions import AdapterParseError

from dspex.errors import DspexError, ModelError, ProgramError
from dspex.program.calls.tool_policy import tool_caller
from dspex.program.models import LOCAL_MODEL, find_model
from dspex.program.program import EXTRACTION, Program
from dspex.settings import Settings
from workers.actions.scoring import Metric, ScoredRow
from workers.adapters.code_interpreter import interpreter_factory
from workers.adapters.contract import Run
from workers.adapters.dspy import linear_readers
from workers.adapters.dspy.answer_repair import (
    RepairingChat,
    RepairingCompact,
    RepairingJson,
    RepairingPrompt,
)
from workers.adapters.dspy.dspy_hooks import install, named_models
from workers.adapters.dspy.dspy_signature import dspy_inputs
from workers.adapters.dspy.engine_bridge import HostedRun, hosted_run, program_failure
from workers.adapters.dspy.improvement.metric_calls import call_metric, load_metric
from workers.adapters.dspy.modules import HostedModule, host_module
from workers.adapters.dspy.modules.mcp_tools import McpServers, found_tools
from workers.adapters.dspy.modules.returned_values import extra_of, outputs_of, refuse_unfit, traced_calls
from workers.adapters.dspy.prompts import UnreadableAnswer
from workers.adapters.dspy.run_loop import BlocksLoop, EndsProgram
from workers.adapters.dspy.run_tools import call_as_tool
from workers.adapters.user_code import allowed_packages, load
from workers.answers.candidates import AnswerReading
from workers.attempt.supervision import ends_task
from workers.lm.connect.endpoint import Endpoints, LocalModelUrl
from workers.lm.connect.local_model import LocalModelAddress
from workers.lm.connect.providers import SchemaDialect, schema_dialect
from workers.lm.engine import RunEngine
from workers.lm.run_engines import engine_of

__all__ = ["DspyAdapter"]

_MODULES_KEPT = 256
#: The number of calls that ``lm.history`` has, for programs that read it.
HISTORY_KEPT = 100
#: How long importing a program's code may take. A longer import goes on, and the program is tried again later.
LOAD_SECONDS = 60.0
_PROMPTS: Mapping[str, type[RepairingPrompt]] = {
    "chat": RepairingChat,
    "json": RepairingJson,
    "compact": RepairingCompact,
}
#: DSPy's own adapters, which send and read what they do in DSPy: a bad answer is not sent back.
_DSPY_PROMPTS: Mapping[str, Callable[[], dspy.Adapter]] = {"xml": dspy.XMLAdapter, "baml": BAMLAdapter}


@dataclass(frozen=True, slots=True)
class _Hosted:
    """A program made ready: its module, and the prompt its calls are put in."""

    module: HostedModule
    prompt: Callable[[RunEngine], dspy.Adapter]


class DspyAdapter:
    """Runs programs as DSPy modules.

    ``local_model_url`` gives the address of the server of the bundled model, and may start it; it is asked once per
    run, on the loop, so a function that takes long is a coroutine function. By default it is the
    embedded stack's, or ``DSPEX_LOCAL_MODEL_URL``.
    """

    def __init__(self, *, local_model_url: LocalModelUrl | None = None) -> None:
        self._local_model = LocalModelAddress()
        self._endpoints = Endpoints(local_model_url or self._local_model)
        self._hosted: OrderedDict[str, _Hosted] = OrderedDict()
        self._making_ready = asyncio.Lock()
        self._interpreter = Settings.load().code_interpreter
        self._mcp_servers = McpServers()
        linear_readers.install()
        install()
        # DSPy logs and quotes truncated answers, odd inputs and failing code, without naming the execution; our errors
        # and audit events name it.
        logging.getLogger("dspy").setLevel(logging.CRITICAL)

    async def prepare(self, program: Program) -> None:
        """Build the program's module. Raises ModuleNotAllowed for code from outside the allowed packages, ProgramError
        for code that is not there or a state that does not fit.

        Neither credentials nor servers are needed: if they are missing, the executions fail, until they are there.
        """
        await self._host(program)
        await self._endpoints.prepare(program)

    async def execute(self, run: Run) -> Mapping[str, Any]:
        """The outputs that the signature declares. The caller validates them.

        Fields that DSPy adds (the ``reasoning`` of ``chain_of_thought``) are not part of the contract: they are in
        ``run.extra``. Declare an output named ``reasoning`` to have it in the result.
        """
        hosted = await self._host(run.program)
        engine = await engine_of(run, self._endpoints)
        try:
            with hosted_run(engine, self._endpoints) as current:
                returned = await self._predict(hosted, current)
                outputs = outputs_of(run.program, returned, is_own=hosted.module.is_own)
                if run.traced is not None:
                    run.traced.update(traced_calls(current.trace, returned))
                if hosted.module.is_own:
                    refuse_unfit(run.program, outputs, current.trace)
                if run.program.record != "none":
                    run.extra.update(extra_of(run.program, returned))
        except BlocksLoop:
            return await self._again_in_a_thread(run)
        except BaseException as error:  # the boundary to the user's code, which may raise anything
            if ends_task(error):
                raise
            if run.waits is not None and run.waits.is_left:
                raise asyncio.CancelledError from None
            if engine.failure is not None:
                raise engine.failure from None
            if isinstance(error, EndsProgram):
                raise
            raise _failure(error, run.program, engine) from None
        if engine.failure is not None:  # the program caught its end
            raise engine.failure
        return outputs

    async def metric(self, run: Run, reference: str) -> Metric:
        """See :class:`workers.actions.scoring.MetricHost`."""
        function = await asyncio.to_thread(load_metric, run.program, reference)

        async def score(row: ScoredRow, outputs: Mapping[str, Any]) -> Any:
            if run.program.model is None:
                return await call_metric(function, row.inputs, row.labels, outputs)
            engine = await engine_of(run, self._endpoints)
            with hosted_run(engine, self._endpoints) as current:
                return await _scored(current, function, row, outputs)

        return score

    async def _predict(self, hosted: _Hosted, current: HostedRun) -> Any:
        """What the module returned. Raises BlocksLoop when it has to run in a thread."""
        run = current.run
        settings: dict[str, Any] = {
            "lm": current.lm,
            "adapter": hosted.prompt(current.engine),
            "trace": current.trace,
            "track_usage": False,
            "warn_on_type_mismatch": False,
            "send_stream": None,
            "max_history_size": HISTORY_KEPT,
        }
        if self._interpreter is not None:
            settings["interpreter_factory"] = interpreter_factory(self._interpreter)
        chosen = hosted.module.settings
        if run.program.prompt is not None:
            chosen = {name: value for name, value in chosen.items() if name != "adapter"}
        inputs = dspy_inputs(run.program.signature, run.inputs, is_own=hosted.module.is_own)
        found, caller = find_model.set(named_models(run.program)), tool_caller.set(call_as_tool)
        with dspy.context(**settings | chosen):
            try:
                return await hosted.module(**inputs)
            except BlocksLoop:
                if run.waits is not None:
                    run.waits.withdraw()
                await current.loop.drain()
                raise
            finally:
                tool_caller.reset(caller)
                find_model.reset(found)

    async def _again_in_a_thread(self, run: Run) -> Mapping[str, Any]:
        """The program turned out to make synchronous calls on the loop. What it has asked so far is replayed."""
        run.journal.rewind()
        run.repairs.clear()
        return await self.execute(run)

    async def close(self) -> None:
        """Close the connections to models."""
        self._hosted.clear()
        self._local_model.close()
        await self._mcp_servers.aclose()
        await self._endpoints.aclose()

    async def _host(self, program: Program) -> _Hosted:
        hosted = self._hosted.get(program.version)
        if hosted is not None:
            self._hosted.move_to_end(program.version)
            return hosted
        async with self._making_ready:
            hosted = self._hosted.get(program.version)
            if hosted is None:
                tools = await self._mcp_servers.tools_of(program)
                hosted = self._hosted[program.version] = await _made_ready(program, tools)
                if len(self._hosted) > _MODULES_KEPT:
                    self._hosted.popitem(last=False)
        return hosted


async def _scored(current: HostedRun, metric: Callable[..., Any], row: ScoredRow, outputs: Mapping[str, Any]) -> Any:
    """What the metric returns; it asks the program's models, the first of them by default."""
    program = current.run.program
    found = find_model.set(named_models(program))
    try:
        with dspy.context(lm=current.lm, adapter=None, trace=[], track_usage=False, max_history_size=HISTORY_KEPT):
            return await call_metric(metric, row.inputs, row.labels, outputs)
    except DspexError:
        raise
    except Exception as error:
        failure = program_failure(error, program=program.name, model=str(program.model))
        if isinstance(failure, ModelError):
            raise failure from None
        raise
    finally:
        find_model.reset(found)


async def _made_ready(program: Program, tools: Mapping[str, Sequence[dspy.Tool]]) -> _Hosted:
    """It may import the user's code: the loop goes on meanwhile, and does not wait for ever."""
    found = found_tools.set(tools)
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            return await asyncio.to_thread(_make_ready, program)
    except TimeoutError:
        raise ProgramError(
            f"program {program.name!r}: its code was not imported within {LOAD_SECONDS:g} s in this worker",
            code="code_not_found",
            retryable=True,
            program=program.name,
        ) from None
    finally:
        found_tools.reset(found)


def _make_ready(program: Program) -> _Hosted:
    try:
        module = host_module(program, _schema_dialect(program))
        prompt = _prompt_of(program)
    except BaseException as error:  # the boundary to the user's code, in a thread
        raise program_failure(error, program=program.name, model=str(program.model)) from None
    return _Hosted(module, prompt)


def _prompt_of(program: Program) -> Callable[[RunEngine], dspy.Adapter]:
    """Makes the adapter of one run. Raises as :func:`workers.adapters.user_code.load` does."""
    style = program.prompt_style
    if style in _PROMPTS:
        return _PROMPTS[style]
    if style == "two_step":
        extraction = named_models(program)
        return lambda _: dspy.TwoStepAdapter(extraction(EXTRACTION))
    made = _DSPY_PROMPTS.get(style) or load(program, style, allowed_packages())
    return lambda _: made()


def _failure(error: BaseException, program: Program, engine: RunEngine) -> DspexError:
    failure = program_failure(error, program=program.name, model=str(program.model))
    if not isinstance(error, AdapterParseError):
        return failure
    reading = error.reading if isinstance(error, UnreadableAnswer) else _reading_of_other(error)
    expected = list(error.signature.output_fields)
    missing = [name for name in expected if name not in reading.values] or expected
    return ModelError(
        f"{failure}: {reading.why(missing)}{engine.cut_words}",
        code=failure.code,
        retryable=failure.retryable and not engine.was_cut_before_answer(reading),
        **failure.details,
        missing=missing,
    )


def _reading_of_other(error: AdapterParseError) -> AnswerReading:
    """What an adapter of DSPy's, or the user's, made of an answer. Its text is not repeated: it quotes the answer."""
    if not str(error.lm_response or "").strip():
        return AnswerReading({}, problem="empty")
    values = error.parsed_result if isinstance(error.parsed_result, Mapping) else {}
    return AnswerReading(dict(values), is_found=bool(values))


def _schema_dialect(program: Program) -> SchemaDialect:
    return schema_dialect(str(program.model), has_address=_has_address(program))


def _has_address(program: Program) -> bool:
    """Whether the program's model is at an address of its own, rather than at a provider that DSPy knows."""
    return program.api_base is not None or program.model == LOCAL_MODEL
