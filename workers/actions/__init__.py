"""Manual actions: code that the worker runs around a program, in the order in which the program names them.

An action is a coroutine function. It gets the attempt and a function that runs the rest; its return value is kept in
``execution.action_results``::

    async def action(run: ActionRun, proceed: Proceed) -> Mapping[str, Any]:
        ...                        # before
        outputs = await proceed()  # the next action, in the end the program: its valid outputs
        return {...}               # after: JSON-friendly

It may look at inputs and outputs, and fail with :class:`dspex.ActionFailed`; it cannot change them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dspex.errors import ActionFailed, DspexError
from dspex.program.actions import Action
from dspex.program.program import Program
from workers.adapters.contract import ModelUse, Run, Trail
from workers.observe.redact import redact

__all__ = ["ActionFunction", "ActionRun", "Actions", "Proceed"]

Proceed = Callable[[], Awaitable[Mapping[str, Any]]]
#: The largest result of an action, as JSON.
RESULT_BYTES = 256 * 1024

log = logging.getLogger("dspex.workers")


@dataclass(frozen=True, slots=True)
class ActionRun:
    """The attempt as an action sees it.

    ``options`` and ``on_failure`` are the action's own; ``model_use()`` returns the model calls so far.
    """

    run: Run
    options: Mapping[str, Any]
    on_failure: str
    model_use: Callable[[], ModelUse]

    @property
    def program(self) -> Program:
        return self.run.program

    @property
    def inputs(self) -> Mapping[str, Any]:
        return self.run.inputs


ActionFunction = Callable[[ActionRun, Proceed], Awaitable[Mapping[str, Any]]]


class Actions:
    """The actions of one attempt. They put their results into ``results``, by name."""

    def __init__(self, run: Run, trail: Trail, model_use: Callable[[], ModelUse], results: dict[str, Any]) -> None:
        self.results = results
        self._run = run
        self._trail = trail
        self._model_use = model_use

    async def around(
        self,
        program: Proceed,
        functions: Mapping[str, ActionFunction],
        outermost: tuple[Action, ActionFunction] | None = None,
    ) -> Mapping[str, Any]:
        """The program's outputs, with its actions run around it. ``functions`` are the actions' functions by name;
        ``outermost`` is an action that is not the program's own.

        Raises the error of the program or of an action.
        """
        proceed = program
        for action in reversed(self._run.program.manual_actions):
            proceed = self._layer(action, functions[action.name], proceed)
        if outermost is not None:
            proceed = self._layer(*outermost, proceed)
        return await proceed()

    def _layer(self, action: Action, function: ActionFunction, inner: Proceed) -> Proceed:
        async def layer() -> Mapping[str, Any]:
            once = _Once(inner)
            began = time.monotonic()
            try:
                result = _storable(await function(self._as_seen_by(action), once.proceed))
            except Exception as error:
                if error is not once.failure:
                    failure = _as_failure(action, error)
                    self._failed(action, failure, began)
                    # The program's failure counts more than a later failure of an action around it.
                    if action.on_failure == "fail" and (once.failure is None or failure is error):
                        raise failure from None
            else:
                self._record(action, True, began, {"result": result})
            return await once.outcome()

        return layer

    def _as_seen_by(self, action: Action) -> ActionRun:
        return ActionRun(self._run, action.options, action.on_failure, self._model_use)

    def _failed(self, action: Action, error: DspexError, began: float) -> None:
        report = {"result": error.result} if isinstance(error, ActionFailed) and error.result else {}
        failure = {"error": {"code": error.code, "message": redact(str(error))}, **report}
        self._record(action, False, began, failure, code=error.code, on_failure=action.on_failure)
        if action.on_failure == "warn":
            # Only its code: the text may quote inputs and outputs.
            id = self._run.execution_id
            log.warning("%s: action %s failed (%s), and the attempt goes on", id, action.name, error.code)

    def _record(self, action: Action, ok: bool, began: float, result: Mapping[str, Any], **noted: Any) -> None:
        took = round((time.monotonic() - began) * 1000, 3)
        self.results[action.name] = {"ok": ok, "duration_ms": took, **result}
        self._trail.record("manual_action", action=action.name, ok=ok, **noted)


class _Once:
    """Runs the layers inside an action exactly once, whether the action asks for it or not."""

    def __init__(self, inner: Proceed) -> None:
        self.failure: BaseException | None = None
        self._inner = inner
        self._outputs: Mapping[str, Any] | None = None

    async def proceed(self) -> Mapping[str, Any]:
        if self._outputs is None and self.failure is None:
            try:
                self._outputs = await self._inner()
            except BaseException as error:
                self.failure = error
                raise
        return await self.outcome()

    async def outcome(self) -> Mapping[str, Any]:
        """The outputs. Raises the failure of the inner layers, even if the action caught it."""
        if self.failure is not None:
            raise self.failure
        return await self.proceed() if self._outputs is None else dict(self._outputs)


def _storable(result: object) -> dict[str, Any]:
    """The action's result, if it can be stored. Raises ActionFailed."""
    if result is None:
        return {}
    if not isinstance(result, Mapping):
        raise ActionFailed(f"its result is a mapping or None, not {type(result).__name__}", code="action_error")
    try:
        text = json.dumps(result, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ActionFailed(f"its result is not JSON-friendly: {error}", code="action_error") from None
    if len(text) > RESULT_BYTES:
        raise ActionFailed(f"its result is {len(text)} bytes as JSON, more than {RESULT_BYTES}", code="action_error")
    return dict(result)


def _as_failure(action: Action, error: Exception) -> DspexError:
    if isinstance(error, DspexError):
        return error
    return ActionFailed(redact(f"action {action.name}: {type(error).__name__}: {error}"), code="action_error")
