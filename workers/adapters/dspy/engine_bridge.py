"""The engine as DSPy sees it: requests and answers in DSPy's own classes, and DSPy's errors as ours.

DSPy has a copy of lm15, whose classes are not the package's. Requests and answers pass between the two as lm15's
canonical form, plain data.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from dspy import lm15 as dspy_lm15
from dspy.clients import call_result, execution
from dspy.clients.errors import error_boundary
from dspy.clients.lm import LM
from dspy.dsp.utils.settings import settings
from dspy.utils import exceptions as upstream
from dspy.utils.callback import with_callbacks

from dspex.errors import DspexError, ProgramError
from dspex.program.modules import is_within
from workers.adapters.dspy.run_loop import EndsProgram, RunLoop
from workers.adapters.dspy.thread_context import is_handed_on
from workers.adapters.user_code import allowed_packages
from workers.attempt.supervision import raised_by
from workers.lm.bundles.batch_target import declared_model
from workers.lm.connect.endpoint import Endpoints, NamedModel
from workers.lm.engine import RunEngine
from workers.lm.model_errors import LM15_RULES, RULES, ErrorRule, model_error

__all__ = ["BlockingEngine", "DspyEngine", "HostedRun", "current_run", "events", "give_way", "gives_way", "hosted_run",
           "program_failure", "run_lm"]  # fmt: skip


log = logging.getLogger("dspex.workers")

T = TypeVar("T")

_PIECE = re.compile(r"\S+\s*|\s+")


class HostedRun:
    """One run as its program's code meets it: its loop, its models, its tools.

    ``lm`` is the program's model. Every other ``dspy.LM`` that the code makes is answered by :meth:`complete`, too.
    """

    def __init__(self, engine: RunEngine, endpoints: Endpoints | None = None) -> None:
        self.run = engine.run
        self.engine = engine
        self.loop = RunLoop()
        #: DSPy's: the predictors that were called, with inputs and predictions.
        self.trace: list[tuple[Any, Any, Any]] = []
        #: What ``dspy.inspect_history`` shows.
        self.history: list[Any] = []
        options = dict(engine.run.program.model_options)
        for name in ("extra_headers", "timeout"):  # the engine's, and the execution's
            options.pop(name, None)
        self.lm = RunLM(
            engine.endpoint.model,
            **options,
            engine=BlockingEngine(self),
            async_engine=DspyEngine(self),
            temperature=engine.run.program.temperature if engine.run.temperature is None else engine.run.temperature,
            max_tokens=engine.run.program.max_tokens,
            cache=False,
            num_retries=0,
        )
        #: What ends the program's code in place of an error of a model call, if that gives anything.
        self.ends: Callable[[DspexError], BaseException | None] = lambda _: None
        self._endpoints = endpoints
        self._others: dict[NamedModel, RunEngine] = {}

    def end_program(self, error: DspexError) -> NoReturn:
        """End the program with this error, which it cannot catch. Raises EndsProgram."""
        self.engine.failure = error
        raise EndsProgram

    async def complete(self, request: dspy_lm15.Request, model: NamedModel | None) -> dspy_lm15.Response:
        """Raises ContextLengthError, which DSPy's agents handle by shortening their history, and ModelError."""
        await give_way()
        engine = self.engine if model is None else await self._other(model)
        answer = await self.asked(lambda: engine.answer(execution.request_to_dict(request)))
        return call_result.response_from_dict(answer)

    async def asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer of a model. Raises as :meth:`complete` does."""
        try:
            return await ask()
        except DspexError as error:
            if (end := self.ends(error)) is not None:
                raise end from error
            if error.code == "context_window_exceeded":
                raise dspy_lm15.ContextLengthError(str(error)) from error
            raise

    async def _other(self, model: NamedModel) -> RunEngine:
        known = self._others.get(model)
        if known is None:
            if self._endpoints is None:
                raise RuntimeError("a run without endpoints has one model")
            endpoint = await self._endpoints.of_code(self.run.program, model)
            headers = await self._endpoints.headers_of_code(model)
            asked = declared_model(self.run.program, model)
            known = RunEngine(self.run, endpoint, model.api_base, headers, declared=asked)
            self._others[model] = known
        return known


#: The run that this task or thread works for.
current_run: ContextVar[HostedRun | None] = ContextVar("current_run", default=None)
#: Ends what the journal and the limits hold for the call of a model whose own code runs now.
gives_way: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("gives_way", default=None)


async def give_way() -> None:
    """Another model of the run is asked, or something is waited for: where that is done by the code of a model
    (:mod:`workers.adapters.dspy.own_models`), that model's own call holds nothing meanwhile."""
    if (give := gives_way.get()) is not None:
        await give()


class DspyEngine:
    """DSPy's asynchronous engine for one run: of the program's model, or of another one that its code names."""

    def __init__(self, hosted: HostedRun, model: NamedModel | None = None) -> None:
        self._hosted = hosted
        self._model = model

    async def complete(self, request: dspy_lm15.Request) -> dspy_lm15.Response:
        """Raises what :meth:`HostedRun.complete` raises."""
        return await self._hosted.loop.acall(lambda: self._hosted.complete(request, self._model))

    async def stream(self, request: dspy_lm15.Request) -> AsyncIterator[Any]:
        """The events of a streamed answer, for a program that streams within itself: all of them at the end."""
        for event in events(await self.complete(request)):
            yield event


class BlockingEngine:
    """DSPy's synchronous engine for one run: for code that runs in a thread, answered on the worker's loop."""

    def __init__(self, hosted: HostedRun, model: NamedModel | None = None) -> None:
        self._hosted = hosted
        self._model = model
        # DSPy reads what the endpoint can do from its engine.
        endpoint = hosted.engine.endpoint
        self.supported_params = endpoint.supported_params
        self.supports_response_schema = endpoint.supports_response_schema
        self.supports_function_calling = endpoint.supports_function_calling
        self.supports_reasoning = endpoint.supports_reasoning

    def complete(self, request: dspy_lm15.Request) -> dspy_lm15.Response:
        """Raises what :meth:`HostedRun.complete` and :meth:`RunLoop.call` raise."""
        return self._hosted.loop.call(lambda: self._hosted.complete(request, self._model))

    def stream(self, request: dspy_lm15.Request) -> Iterator[Any]:
        """As :meth:`DspyEngine.stream`."""
        yield from events(self.complete(request))


def events(response: dspy_lm15.Response) -> Iterator[Any]:
    """The answer as a stream, its text in pieces, since DSPy's listeners take a whole answer for one from a cache."""
    for event in dspy_lm15.response_to_events(response):
        if event.type != "delta" or event.delta.type != "text":
            yield event
            continue
        first = event
        for piece in _PIECE.findall(event.delta.text):
            yield replace(first, delta=replace(first.delta, text=piece))
            first = replace(first, delta=replace(first.delta, logprobs=(), logprobs_complete=True))


class RunLM(LM):  # type: ignore[misc]
    """``dspy.LM`` without what a call over our engine does not need: two hops through the loop's threads, which the
    runs of a worker would queue for, its pricing and its retries."""

    @with_callbacks  # type: ignore[untyped-decorator]
    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        # A typed request may read local files; a stream has its own way.
        if isinstance(prompt, dspy_lm15.Request) or "request" in kwargs or settings.send_stream is not None:
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
def hosted_run(engine: RunEngine, endpoints: Endpoints | None = None) -> Iterator[HostedRun]:
    """The run of an engine, current until the block ends; then its threads make no call any more.

    Raises DSPy's LMConfigurationError for settings that the model cannot take.
    """
    hosted = HostedRun(engine, endpoints)
    before, handed_on = current_run.set(hosted), is_handed_on.set(True)
    try:
        yield hosted
    finally:
        hosted.loop.end()
        del hosted.lm  # its engines refer to the run: only Python's collector would free both
        is_handed_on.reset(handed_on)
        current_run.reset(before)


@contextmanager
def run_lm(engine: RunEngine) -> Iterator[LM]:
    """The ``dspy.LM`` of one run, until the block ends."""
    with hosted_run(engine) as hosted:
        yield hosted.lm


def program_failure(error: BaseException, *, program: str, model: str) -> DspexError:
    """The error of a run that DSPy ended: ours if it carries one, the model's, or the program's own code's.

    A DspexError raised below DSPy (by the journal or the engine) comes back wrapped in errors of DSPy and of its lm15,
    as their cause.
    """
    error = raised_by(error)
    inner: BaseException | None = error
    while isinstance(inner, upstream.LMError | dspy_lm15.LM15Error) and inner.__cause__ is not None:
        inner = inner.__cause__
    if isinstance(inner, DspexError):
        return inner
    if isinstance(error, upstream.LMError | upstream.AdapterParseError):
        return model_error(error, model=model)
    log.error("program %r raised %s:\n%s", program, type(error).__name__, "".join(_frames(error)))
    at = _place(error)
    return ProgramError(
        f"program {program!r} raised {type(error).__name__} at {at}; its text is not repeated, "
        "since it may quote inputs or outputs",
        type=type(error).__name__,
        at=at,
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


def _frames(error: BaseException) -> list[str]:
    """The traceback without what the error says, which may quote inputs."""
    return traceback.format_tb(error.__traceback__)


def _place(error: BaseException) -> str:
    """``file.py:12``, without the directory: the innermost line of the user's own packages, else of all."""
    packages = tuple(allowed_packages())
    places = [(frame.f_globals.get("__name__", ""), frame.f_code.co_filename, line)
              for frame, line in traceback.walk_tb(error.__traceback__)]  # fmt: skip
    own = [place for place in places if is_within(str(place[0]), packages)]
    if not places:
        return "an unknown place"
    _, file, line = (own or places)[-1]
    return f"{os.path.basename(file)}:{line}"
