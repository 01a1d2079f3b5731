"""What DSPex changes in DSPy itself, for code that runs as part of an execution: all of it is here.

Outside of a run, each of these does what DSPy's own does, but for the list of progress bars, which all runs share.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import Any
from weakref import WeakSet

import dspy
from dspy.clients import base_lm, embedding, execution
from dspy.clients.backend_selection import CLIENT_KEYS
from dspy.clients.lm import LM
from dspy.dsp.utils.settings import Settings, dotdict, main_thread_config, thread_local_overrides
from dspy.streaming.streaming_listener import StreamListener
from dspy.utils import exceptions, parallelizer

from dspex.errors import ModelError
from dspex.program.modules import is_within
from dspex.program.program import Program
from workers.adapters.dspy.engine_bridge import BlockingEngine, DspyEngine, HostedRun, current_run
from workers.adapters.dspy.own_models import own_engine
from workers.adapters.dspy.run_loop import running_loop
from workers.adapters.dspy.run_tools import acall_tool, call_tool
from workers.adapters.dspy.thread_context import call_in_thread, hand_on_context
from workers.lm.connect.chat_media import FILE_NAMES
from workers.lm.connect.endpoint import NamedModel
from workers.lm.request_settings import without_members

__all__ = ["configured_at_import", "configured_by", "install", "named_models"]

log = logging.getLogger("dspex.workers")

#: The attribute of an LM with its name among the program's models.
NAME = "_dspex_name"

#: What a call has that is no option of a request's body: DSPy reads it.
_OF_THE_CALL = frozenset({"messages", "model", "n", "num_generations", "prompt_cache", "rollout_id"}) | CLIENT_KEYS

#: Settings of OpenAI's client that are headers.
_HEADERS = {"organization": "OpenAI-Organization", "project": "OpenAI-Project"}

#: What was passed to ``dspy.configure`` when these modules were imported.
_of_modules: dict[str, dict[str, Any]] = {}
#: The program's module that is imported now.
_importing: ContextVar[str | None] = ContextVar("importing", default=None)
#: What the code that is imported or built now has passed to ``dspy.configure``.
_configured: ContextVar[dict[str, Any] | None] = ContextVar("configured", default=None)

# DSPy's class and function of the same names hide the modules.
lm_module: Any = import_module("dspy.clients.lm")
syncify: Any = import_module("dspy.utils.syncify")

#: The modules of DSPy whose agents show the model the errors of tools.
AGENTS: list[Any] = [import_module(name) for name in ("dspy.predict.react", "dspy.predict.react_v2") if find_spec(name)]

_select_engine = execution._engine
_format_error = exceptions.format_error_for_lm
_canonical = execution._canonical
_refuse_client_settings = lm_module._refuse_client_settings
_configure = Settings.configure
_run_async = syncify.run_async
_listen_plain = StreamListener.__init__
_get_litellm = embedding._get_litellm
_execute = parallelizer.ParallelExecutor.execute


def install() -> None:
    """Change DSPy, once per process."""
    execution._engine = _engine
    execution._canonical = _canonical_here
    lm_module._refuse_client_settings = _refuse_client_settings_here
    Settings.configure = _configure_here
    dspy.configure = dspy.settings.configure
    syncify.run_async = _run_async_here
    parallelizer.ParallelExecutor.execute = _execute_here
    bars = parallelizer.tqdm.tqdm
    bars._instances = _Bars(bars._instances)
    embedding._get_litellm = _litellm_of_embedder
    dspy.Tool.acall = acall_tool
    dspy.Tool.__call__ = call_tool
    StreamListener.__init__ = _listen
    for module in AGENTS:
        module.format_error_for_lm = _error_for_model
    base_lm.GLOBAL_HISTORY = _History(base_lm.GLOBAL_HISTORY)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    hand_on_context()


def named_models(program: Program) -> Callable[[str], LM]:
    """What :func:`dspex.model` finds in a program's code. Each call makes a new LM, as the code would itself."""

    def find(name: str) -> LM:
        declared = program.named_models[name]
        made = LM(
            declared.model,
            temperature=declared.temperature,
            max_tokens=declared.max_tokens,
            cache=False,
            num_retries=0,
            **declared.options,
        )
        setattr(made, NAME, name)
        return made

    return find


@contextmanager
def configured_by() -> Iterator[dict[str, Any]]:
    """What the code in this block passes to ``dspy.configure``: it changes nothing for other programs."""
    made: dict[str, Any] = {}
    token = _configured.set(made)
    try:
        yield made
    finally:
        _configured.reset(token)


@contextmanager
def configured_at_import(module: str) -> Iterator[None]:
    """The import of a program's module, and what modules pass to ``dspy.configure`` while they are imported, which
    happens once: it holds for the programs of those modules and of the packages that they are.

    The language model does not: it is the program's.
    """
    token = _importing.set(module)
    try:
        yield
    finally:
        _importing.reset(token)
    for home, settings in _of_modules.items():
        if is_within(module, [home]):
            _configure_here(dspy.settings, **settings)


def _note_import(importing: str, caller: str, settings: dict[str, Any]) -> None:
    kept = {name: value for name, value in settings.items() if name != "lm"}
    if len(kept) < len(settings):
        log.warning(
            "%s calls dspy.configure(lm=…) when it is imported: programs run on the models that they name", caller
        )
    for module in {importing, caller}:
        _of_modules.setdefault(module, {}).update(kept)


def _engine(lm: Any, call: Any, asynchronous: bool) -> tuple[Any, Any, Any]:
    """The engine of an LM that a program made itself: the run's, so that its calls are journaled and counted."""
    hosted = current_run.get()
    if hosted is None:
        return _select_engine(lm, call, asynchronous)  # type: ignore[no-any-return]
    if not call.managed or not isinstance(lm._engine_spec, str):
        backend, request, provider = _select_engine(lm, call, asynchronous)
        return own_engine(hosted, lm, call, backend, asynchronous=asynchronous), request, provider
    if lm.model_type == "text":
        raise _model_not_allowed(hosted, lm, "model_type='text': workers ask models by their chat APIs")
    options = {**lm.kwargs, **call.legacy}
    headers = {_HEADERS[name]: str(options[name]) for name in _HEADERS if options.get(name) is not None}
    address = NamedModel(
        lm.model,
        options.get("api_base") or options.get("base_url"),
        options.get("api_key"),
        tuple({**headers, **(options.get("extra_headers") or options.get("headers") or {})}.items()),
        getattr(lm, NAME, None),
    )
    made = DspyEngine(hosted, address) if asynchronous else BlockingEngine(hosted, address)
    return made, execution._canonical(call), None


def _refuse_client_settings_here(engine: Any, kwargs: dict[str, Any], *, where: str = "dspy.LM") -> None:
    """DSPy's; for the program's own model, whose connection the program sets, a sentence that says what to write."""
    hosted = current_run.get()
    if hosted is None or not isinstance(engine, BlockingEngine):
        _refuse_client_settings(engine, kwargs, where=where)
        return
    if names := sorted(name for name in CLIENT_KEYS - {"timeout"} if kwargs.get(name) is not None):
        raise _model_not_allowed(
            hosted, hosted.lm, f"{', '.join(names)} in a call or a copy of the program's own model: set them in the "
            "program (api_base, api_key_env, extra_headers in model_options), or make a dspy.LM with them",
        )  # fmt: skip


def _model_not_allowed(hosted: HostedRun, lm: Any, why: str) -> ModelError:
    """The program would not show these settings, or the request would not be the one that the code means."""
    program = hosted.run.program.name
    return ModelError(
        f"program {program!r}: its code asks {lm.model!r} with {why}",
        code="model_not_allowed",
        retryable=False,
        model=str(lm.model),
    )


def _canonical_here(call: Any, *, compat: Any = None) -> Any:
    """The request of a call; what lm15 has no place for is an extension of it: options of the server's own, and the
    names of files."""
    if current_run.get() is None or call.request is not None:
        return _canonical(call, compat=compat)
    legacy = {name: value for name, value in call.legacy.items() if name in _OF_THE_CALL}
    options = {name: value for name, value in call.legacy.items() if name not in _OF_THE_CALL}
    read, members = without_members(str(legacy["model"]), options)
    messages = legacy["messages"]
    names = [str(part["file"].get("filename") or "") for part in _file_parts(messages)]
    if any(names):
        messages = [_without_file_names(each) for each in messages]
        members = {**members, FILE_NAMES: names}
    request = _canonical(replace(call, legacy={**legacy, **read, "messages": messages}), compat=compat)
    if not members:
        return request
    extensions = {**(request.config.extensions or {}), **members}
    return replace(request, config=replace(request.config, extensions=extensions))


def _file_parts(messages: Any) -> Iterator[dict[str, Any]]:
    for message in messages or ():
        content = message.get("content") if isinstance(message, dict) else None
        yield from (part for part in content or () if _is_file(part)) if isinstance(content, list) else ()


def _is_file(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "file" and isinstance(part.get("file"), dict)


def _without_file_names(message: Any) -> Any:
    if not any(_file_parts([message])):
        return message
    return {**message, "content": [_nameless(part) if _is_file(part) else part for part in message["content"]]}


def _nameless(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "file": {name: value for name, value in part["file"].items() if name != "filename"}}


def _configure_here(self: Any, **kwargs: Any) -> None:
    """``dspy.configure``: in a run as ``dspy.context`` until the run ends; in code that is built, for its program."""
    made, importing = _configured.get(), _importing.get()
    if importing is not None:
        _note_import(importing, str(sys._getframe(1).f_globals.get("__name__")), kwargs)
        return
    if current_run.get() is None and made is None:
        _configure(self, **kwargs)
        return
    if made is not None:
        made |= kwargs
    here = thread_local_overrides.get()
    thread_local_overrides.set(dotdict({**main_thread_config, **here, **kwargs}))


def _run_async_here(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """``dspy.syncify``'s: DSPy's would change asyncio for the whole process when a loop runs."""
    hosted = current_run.get()
    if hosted is None:
        return _run_async(coroutine)
    if hosted.loop.is_here:
        coroutine.close()
        hosted.loop.refuse_to_block()
    if running_loop() is None:
        return asyncio.run(coroutine)
    return call_in_thread(lambda: asyncio.run(coroutine))


def _execute_here(self: Any, *arguments: Any) -> Any:
    """``dspy.Parallel``'s: its threads make model calls, for which the worker's loop must be free."""
    hosted = current_run.get()
    if hosted is not None:
        hosted.loop.refuse_to_block()
        self.disable_progress_bar = True  # it is no line of a worker's log
    return _execute(self, *arguments)


class _Bars(WeakSet[Any]):
    """tqdm's progress bars. DSPy clears them when a ``dspy.Parallel`` begins. Another thread that makes a bar at that
    moment, also one that is not shown, would then get a KeyError for it."""

    def clear(self) -> None:
        """Keep them: each leaves when it is closed or freed."""


def _litellm_of_embedder() -> Any:
    """What asks a provider for embeddings: DSPex does not see these calls."""
    hosted = current_run.get()
    if hosted is not None:
        _warn_of_embedder(hosted.run.program.name)
    return _get_litellm()


@cache
def _warn_of_embedder(program: str) -> None:
    """Once per process and program."""
    log.warning(
        "program %r asks a provider through dspy.Embedder: these calls are not in the journal, the limits and the "
        "costs; a tool (dspy.Tool) that returns the embeddings is replayed", program,
    )  # fmt: skip


def _listen(self: Any, *arguments: Any, **named: Any) -> None:
    """A listener that also knows DSPex's adapters, whose answers read as DSPy's do."""
    _listen_plain(self, *arguments, **named)
    known = self.adapter_identifiers
    known |= {"RepairingChat": known["ChatAdapter"], "RepairingJson": known["JSONAdapter"]}


def _error_for_model(error: BaseException, *, traceback_frames: int = 0) -> str:
    """An error as DSPy's agents show it to the model: without the lines of this package, which DSPy does not have."""
    if current_run.get() is not None:
        error = error.with_traceback(_without_ours(error.__traceback__))
    return str(_format_error(error, traceback_frames=traceback_frames))


def _without_ours(found: TracebackType | None) -> TracebackType | None:
    if found is None:
        return None
    inner = _without_ours(found.tb_next)
    module = str(found.tb_frame.f_globals.get("__name__"))
    if is_within(module, _OURS):
        return inner
    return TracebackType(inner, found.tb_frame, found.tb_lasti, found.tb_lineno)


#: What is between an agent of DSPy and a tool's function in a worker, and nowhere else.
_OURS = ("workers", "asyncio.threads", "concurrent.futures")


class _History(list[Any]):
    """``dspy.inspect_history``: of the run, and never of another one."""

    def _own(self) -> list[Any]:
        hosted = current_run.get()
        return [] if hosted is None else hosted.history

    def append(self, entry: Any) -> None:
        self._own().append(entry)

    def pop(self, place: Any = -1) -> Any:
        return self._own().pop(place)

    def __len__(self) -> int:
        return len(self._own())

    def __getitem__(self, place: Any) -> Any:
        return self._own()[place]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._own())
