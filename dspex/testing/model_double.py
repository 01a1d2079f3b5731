"""A model for tests: an OpenAI-compatible server in a thread of the test, whose answers cost nothing."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from dspex.program.adapters import adapters
from dspex.program.models import Model
from dspex.program.program import Program
from dspex.testing.scripted_model import ModelServer, ModelStep

__all__ = ["KEY_ENV", "ModelDouble", "calls_under_way"]

#: The variable that has the key of the double, in the worker of the tests.
KEY_ENV = "DSPEX_TESTING_MODEL_KEY"
#: The failures by the code that an execution gets: the status of the reply, and the provider's own code.
_FAILURES: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "rate_limited": (429, {"code": "rate_limit_exceeded"}),
    "provider_unavailable": (503, {}),
    "authentication": (401, {"code": "invalid_api_key"}),
    "billing": (429, {"code": "insufficient_quota", "type": "insufficient_quota"}),
    "invalid_request": (400, {"type": "invalid_request_error"}),
}
_FAULTS = {"content_filtered": "content_filter", "refused": "refusal", "cut_off": "length", "connection_lost": "reset"}

_doubles: weakref.WeakSet[ModelDouble] = weakref.WeakSet()


class ModelDouble:
    """The model of a test.

    Without a script it answers what the program's signature asks for, and the same request always gets the same answer.
    """

    #: The name by which programs use it.
    model = "openai/test"

    def __init__(self) -> None:
        self._server = ModelServer()

    def __enter__(self) -> Self:
        self._server.__enter__()
        _doubles.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _doubles.discard(self)
        self._server.__exit__(kind, error, trace)

    @property
    def api_base(self) -> str:
        """Its address, for ``Program(api_base=...)``."""
        return self._server.api_base

    @property
    def options(self) -> Mapping[str, Any]:
        """The arguments of a program that runs on it: ``Program(..., **dspex_model.options)``."""
        return {"model": self.model, "api_base": self.api_base, "api_key_env": KEY_ENV}

    def serve(self, program: Program) -> Program:
        """The program on this server in place of its models: the main one is ``test``, a named one has its name, and
        fallbacks are ``fallback-1`` and so on. A program that calls no model is returned as it is."""
        known = adapters()
        if not any(known[name].capabilities.calls_models for name in program.adapters if name in known):
            return program
        fallback = [self._in_place_of(f"fallback-{n}", each) for n, each in enumerate(program.fallback_models, 1)]
        models = {name: self._in_place_of(name, each) for name, each in program.named_models.items()}
        options = _without_headers(program.model_options)
        return replace(program, **self.options, model_options=options, models=models, fallback=fallback)

    def _in_place_of(self, name: str, model: Model) -> Model:
        options = {**self.options, "model": f"openai/{name}", "options": _without_headers(model.options)}
        return replace(model, **options)

    def script(
        self,
        *,
        answers: Sequence[Mapping[str, Any] | str] = (),
        fail: str | int | None = None,
        times: int = 1,
        delay: float = 0.0,
        cut: int | None = None,
    ) -> None:
        """Answer the next calls so; after the last of ``answers``, from the signature.

        ``answers``  for each call the outputs by field, or the text of the answer as it stands
        ``fail``     the first ``times`` calls fail: with a code (``rate_limited``, ``provider_unavailable``,
                     ``authentication``, ``billing``, ``invalid_request``, ``content_filtered``, ``refused``,
                     ``cut_off``, ``connection_lost``) or an HTTP status
        ``delay``    seconds before each answer
        ``cut``      each answer breaks off after so many pieces of a stream, or in the middle
        """
        failing = [] if fail is None else [replace(_failing(fail), times=times)]
        steps = [_answering(answer, delay, cut) for answer in answers]
        self._server.script(*failing, *steps, default=ModelStep(delay_ms=delay * 1000, cut_after=cut))

    def replay(self, recorded: Mapping[str, Any]) -> None:
        """Give the answers of a recorded execution, in the order in which it got them; then fail as its model did."""
        answers = [_answering(call["answer"]) for call in recorded["calls"]]
        cause = str((recorded["error"] or {}).get("cause"))
        failing = cause in _FAILURES or cause in _FAULTS
        self._server.script(*answers, default=_failing(cause) if failing else ModelStep())

    @property
    def calls(self) -> int:
        """How many calls have come so far, answered or not."""
        return int(self._server.calls()["total"])

    @property
    def requests(self) -> Sequence[Mapping[str, Any]]:
        """The bodies of the last twenty calls, the latest at the end."""
        requests: Sequence[Mapping[str, Any]] = self._server.calls()["requests"]
        return requests

    @property
    def under_way(self) -> int:
        """How many calls wait for their answer now."""
        return int(self._server.calls()["running"])

    def forget(self) -> None:
        """Forget the script and the counts."""
        self._server.forget()


def calls_under_way() -> int:
    """How many calls wait for an answer of any double of this process."""
    return sum(double.under_way for double in list(_doubles))


def _without_headers(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options of a model without headers, which may name secrets of its worker's environment."""
    return {name: value for name, value in options.items() if name != "extra_headers"}


def _answering(answer: Mapping[str, Any] | str | None, delay: float = 0.0, cut: int | None = None) -> ModelStep:
    """The step with an answer; None is one from the signature."""
    given = {"outputs": dict(answer)} if isinstance(answer, Mapping) else {"content": answer}
    return ModelStep(**given, delay_ms=delay * 1000, cut_after=cut)


def _failing(fail: str | int) -> ModelStep:
    if isinstance(fail, int):
        return ModelStep(status=fail)
    if fail in _FAULTS:
        return ModelStep(fault=_FAULTS[fail])
    if fail not in _FAILURES:
        raise ValueError(f"fail={fail!r} is not one of {', '.join([*_FAILURES, *_FAULTS])}, or an HTTP status")
    status, error = _FAILURES[fail]
    return ModelStep(status=status, error=dict(error))
