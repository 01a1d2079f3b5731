"""The engine as DSPy sees it: requests and answers in DSPy's own classes, and DSPy's errors as ours.

DSPy has a copy of lm15, whose classes are not the package's. Requests and answers pass between the two as lm15's
canonical form, plain data.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

from dspy import lm15 as dspy_lm15
from dspy.clients import call_result, execution
from dspy.clients.errors import error_boundary
from dspy.clients.lm import LM
from dspy.utils import exceptions as upstream
from dspy.utils.callback import with_callbacks

from dspex.errors import DspexError, ModelError, ProgramError
from workers.lm.engine import RunEngine
from workers.lm.model_errors import LM15_RULES, RULES, ErrorRule, model_error

__all__ = ["BlockingEngine", "DspyEngine", "program_failure", "run_lm"]


class DspyEngine:
    """DSPy's asynchronous engine for one run."""

    def __init__(self, engine: RunEngine) -> None:
        self._engine = engine

    async def complete(self, request: dspy_lm15.Request) -> dspy_lm15.Response:
        """Raises ContextLengthError, which DSPy's agents handle by shortening their history, and ModelError."""
        try:
            answer = await self._engine.answer(execution.request_to_dict(request))
        except ModelError as error:
            if error.code == "context_window_exceeded":
                raise dspy_lm15.ContextLengthError(str(error)) from error
            raise
        return call_result.response_from_dict(answer)


class BlockingEngine:
    """DSPy's synchronous engine for one run: for modules that run in a thread, answered on the worker's loop.

    The thread may outlive the run (its deadline passed, it was cancelled): then its calls are not made.
    """

    def __init__(self, engine: RunEngine) -> None:
        self._engine = DspyEngine(engine)
        self._loop = asyncio.get_running_loop()
        self._asked: set[Future[dspy_lm15.Response]] = set()
        self._ended = False
        # DSPy reads what the endpoint can do from its engine.
        self.supported_params = engine.endpoint.supported_params
        self.supports_response_schema = engine.endpoint.supports_response_schema
        self.supports_function_calling = engine.endpoint.supports_function_calling
        self.supports_reasoning = engine.endpoint.supports_reasoning

    def complete(self, request: dspy_lm15.Request) -> dspy_lm15.Response:
        """Raises RuntimeError on the loop's own thread, which would wait for itself: use ``acall`` there; and asyncio's
        CancelledError when the run is over."""
        if _running_loop() is self._loop:
            raise RuntimeError("a synchronous model call on the worker's event loop: call the module with acall()")
        asked = asyncio.run_coroutine_threadsafe(self._while_it_runs(request), self._loop)
        self._asked.add(asked)
        try:
            return asked.result()
        except CancelledError:  # an Exception, which DSPy would take for the model's failure; asyncio's is none
            raise asyncio.CancelledError from None
        finally:
            self._asked.discard(asked)

    def end(self) -> None:
        """The run is over: cancel calls under way, and refuse new ones. For the loop's thread."""
        self._ended = True
        for asked in tuple(self._asked):
            asked.cancel()

    async def _while_it_runs(self, request: dspy_lm15.Request) -> dspy_lm15.Response:
        if self._ended:
            raise asyncio.CancelledError
        return await self._engine.complete(request)


class RunLM(LM):  # type: ignore[misc]
    """``dspy.LM`` without what a call over our engine does not need: two hops through the loop's threads, which the
    runs of a worker would queue for, its pricing and its retries."""

    @with_callbacks  # type: ignore[untyped-decorator]
    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        if isinstance(prompt, dspy_lm15.Request) or "request" in kwargs:  # a typed request may read local files
            return await super().acall(prompt, messages=messages, **kwargs)
        call = execution.prepare(self, prompt, messages, kwargs, asynchronous=True)
        with error_boundary(self.model, unexpected=True):
            request = execution._canonical(call)
            answers = [await self._async_engine_spec.complete(request) for _ in range(call.n)]
        logprobs = bool(call.legacy.get("logprobs"))
        results = [call_result.CallResult.native(answer, logprobs=logprobs) for answer in answers]
        result = results[0] if len(results) == 1 else call_result.combine(results, model_type=self.model_type)
        return execution.finalize(self, call, result)


@contextmanager
def run_lm(engine: RunEngine) -> Iterator[LM]:
    """The ``dspy.LM`` of one run, until the block ends. Raises DSPy's LMConfigurationError for settings the model
    cannot take."""
    program = engine.run.program
    blocking = BlockingEngine(engine)
    try:
        yield RunLM(
            engine.endpoint.model,
            engine=blocking,
            async_engine=DspyEngine(engine),
            temperature=program.temperature,
            max_tokens=program.max_tokens,
            cache=False,
            num_retries=0,
        )
    finally:
        blocking.end()


def program_failure(error: Exception, *, program: str, model: str) -> DspexError:
    """The error of a run that DSPy ended: ours if it carries one, the model's, or the program's own code's.

    A DspexError raised below DSPy (by the journal or the engine) comes back wrapped in errors of DSPy and of its lm15,
    as their cause.
    """
    inner: BaseException | None = error
    while isinstance(inner, upstream.LMError | dspy_lm15.LM15Error) and inner.__cause__ is not None:
        inner = inner.__cause__
    if isinstance(inner, DspexError):
        return inner
    if isinstance(error, upstream.LMError | upstream.AdapterParseError):
        return model_error(error, model=model)
    return ProgramError(
        f"program {program!r} raised {type(error).__name__} at {_place(error)}; its text is not repeated, "
        "since it may quote inputs or outputs",
        type=type(error).__name__,
        at=_place(error),
    )


_PARSE = ErrorRule("output_unparseable", True, "the answer does not have the form the prompt asked for")
#: What DSPy's own classes are called, where that is not ``LM`` and lm15's name.
_RENAMED = {"LM15Error": "LMError", "ContextLengthError": "ContextWindowExceededError"}


def _dspy_rules() -> dict[type[BaseException], ErrorRule]:
    """DSPy's copies of lm15's errors, and its own counterparts of most, by their names."""
    rules: dict[type[BaseException], ErrorRule] = {upstream.AdapterParseError: _PARSE}
    for ours, rule in LM15_RULES.items():
        name = ours.__name__
        for module, called in ((dspy_lm15, name), (upstream, _RENAMED.get(name, f"LM{name}"))):
            if found := getattr(module, called, None):
                rules[found] = rule
    rules[upstream.LMUnexpectedError] = rules[upstream.LMError]
    rules[dspy_lm15.ToolDerivationError] = rules[dspy_lm15.ConfigurationError]
    return rules


RULES.update(_dspy_rules())


# DSPy may look a model up elsewhere: it has a list in its package, and would else fetch one over the network.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _place(error: BaseException) -> str:
    """``file.py:12``: where the error was raised, without the directory."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
