"""Programs as DSPy modules: built from their content, once per version.

DSPy's own modules keep no state of a call (with history off), so one instance serves all runs of a version. A user's
module may keep state on itself, so each run has a copy (0.05 to 0.1 ms for three predictors, against 3 to 7 ms for
building it again), unless its class defines ``def deepcopy(self): return self``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

import dspy

from dspex.errors import ProgramError
from dspex.program.calls.parameters import signature_of
from dspex.program.models import find_model
from dspex.program.models import model as find_named
from dspex.program.modules import is_custom
from dspex.program.program import Program
from workers.adapters.code_interpreter import interpreter_name, missing_interpreter
from workers.adapters.dspy.dspy_hooks import configured_at_import, configured_by, named_models
from workers.adapters.dspy.dspy_signature import Flavour, dspy_signature
from workers.adapters.dspy.dspy_versions import of_dspy
from workers.adapters.dspy.engine_bridge import current_run
from workers.adapters.dspy.modules.agents import (
    RLM,
    CodeAct,
    MultiChainComparison,
    ProgramOfThought,
    ReAct,
    needs_interpreter,
)
from workers.adapters.dspy.modules.returned_values import PREDICTOR_NAME
from workers.adapters.dspy.modules.rewards import BestOfN, Refine
from workers.adapters.dspy.modules.state import apply_state
from workers.adapters.dspy.modules.tools import tools_of
from workers.adapters.dspy.run_loop import BlocksLoop
from workers.adapters.dspy.values.given_values import InputTypes
from workers.adapters.user_code import allowed_packages, load
from workers.attempt.sync_threads import run_sync

__all__ = ["HostedModule", "build_module", "host_module"]

#: Where DSPy has an ``aforward`` that runs code in between, on the loop.
_BLOCKING = frozenset({"dspy.predict.rlm", "dspy.predict.code_act"})
#: The output that ``chain_of_thought`` has the model write first.
REASONING = "reasoning"

_REACT_STEPS = 20
_CODE_TRIES = 3
_CODE_STEPS = 5
_CHAINS = 3
_CHAINS_TEMPERATURE = 0.7


class HostedModule:
    """A program's module, ready for any number of runs at once.

    ``settings`` are what its code passed to ``dspy.configure`` when it was imported or built.
    """

    def __init__(self, module: dspy.Module, *, is_own: bool, settings: Mapping[str, Any] | None = None) -> None:
        self.module = module
        self.is_own = is_own
        self.settings = dict(settings or {})
        self._is_async = is_async(module)
        self._needs_thread = False
        for name, predictor in module.named_predictors():
            setattr(predictor, PREDICTOR_NAME, name)
        self._inputs = InputTypes(module, _entry(module, self._is_async)) if is_own else None

    async def __call__(self, **inputs: Any) -> Any:
        """Run it: on the loop if it is asynchronous, else in a thread of the worker's.

        Raises BlocksLoop when it has to be called again, in a thread: then it is, from now on.
        """
        module = _copied(self.module) if self.is_own else self.module
        arguments = inputs if self._inputs is None else self._inputs.read(inputs)
        with dspy.context(disable_history=module is self.module):  # what runs share keeps nothing of them
            if not self._is_async:
                return await run_sync(module, **arguments)
            if self._needs_thread:
                return await run_sync(_on_own_loop, module, arguments)
            try:
                return await _on_loop(module, arguments)
            except BlocksLoop:
                self._needs_thread = True
                raise


def _copied(module: dspy.Module) -> dspy.Module:
    """A copy for one run, with the callbacks of its parts, which DSPy leaves out of a copy."""
    copy = module.deepcopy()
    if copy is not module:
        for (_, original), (_, part) in zip(module.named_sub_modules(), copy.named_sub_modules(), strict=False):
            if getattr(original, "callbacks", None):
                part.callbacks = list(original.callbacks)
    return copy


def is_async(module: dspy.Module) -> bool:
    """Whether to use ``aforward``: where it is at least as specific in the class hierarchy as ``forward``, and is not
    one of DSPy's that block the loop."""
    hierarchy: list[Mapping[str, Any]] = [vars(module), *map(vars, type(module).__mro__)]

    def place(name: str) -> int:
        return next((place for place, names in enumerate(hierarchy) if name in names), len(hierarchy))

    awaited = place("aforward")
    if awaited == len(hierarchy) or awaited > place("forward"):
        return False
    return hierarchy[awaited].get("__module__") not in _BLOCKING


def _entry(module: dspy.Module, is_awaited: bool) -> Callable[..., Any]:
    return object.__getattribute__(module, "aforward" if is_awaited else "forward")  # type: ignore[no-any-return]


async def _on_loop(module: dspy.Module, arguments: Mapping[str, Any]) -> Any:
    """What the module returns. Raises BlocksLoop also where its code waited for a thread that waits for the loop."""
    hosted = current_run.get()
    assert hosted is not None
    hosted.loop.hosts_code = True
    try:
        returned = await module.acall(**arguments)
    except Exception:
        if hosted.loop.is_blocked:
            raise BlocksLoop from None
        raise
    if hosted.loop.is_blocked:
        raise BlocksLoop
    return returned


def _on_own_loop(module: dspy.Module, arguments: Mapping[str, Any]) -> Any:
    return asyncio.run(module.acall(**arguments))


def host_module(program: Program, flavour: Flavour) -> HostedModule:
    """The program's module for a worker. It may import the user's code, which takes as long as it takes.

    Raises ModuleNotAllowed, and ProgramError when the code cannot be found, the state does not fit, or the module needs
    an interpreter that this worker does not have.
    """
    is_own = is_custom(program.module)
    found = find_model.set(named_models(program))
    try:
        with configured_by() as settings:
            module = build_module(program, flavour)
            _give_models(program, module)
    finally:
        find_model.reset(found)
    if needs_interpreter(module) and interpreter_name() is None:
        raise missing_interpreter(program.name)
    return HostedModule(module, is_own=is_own, settings=settings)


def _give_models(program: Program, module: dspy.Module) -> None:
    """Put each predictor on the model that the program names for it. Raises ProgramError for one that is not there."""
    predictors = dict(module.named_predictors())
    if unknown := sorted(set(program.predictors) - {*predictors, "*"}):
        raise ProgramError(
            f"program {program.name!r} names models for {', '.join(unknown)}; its predictors are "
            f"{', '.join(predictors) or 'none'}",
            code="predictor_unknown",
            program=program.name,
        )
    for name, predictor in predictors.items():
        chosen = program.predictors.get(name, program.predictors.get("*"))
        if chosen is not None:
            predictor.lm = find_named(chosen)


def build_module(program: Program, flavour: Flavour = "json-schema") -> dspy.Module:
    """The program's module with its state, to call or to optimise. Raises as :func:`host_module` does."""
    packages = allowed_packages() if _names_code(program) else ()
    signature = dspy_signature(program.signature, flavour)
    module = (
        _custom(program, signature, packages) if is_custom(program.module) else _module(program, signature, packages)
    )
    if program.state:
        apply_state(program, module, program.state)
    return module


def _names_code(program: Program) -> bool:
    return is_custom(program.module) or bool(program.tools) or "reward" in program.module_options


def _module(  # noqa: PLR0911 - a module for each name
    program: Program, signature: type[dspy.Signature], packages: Collection[str]
) -> dspy.Module:
    options = program.module_options
    match program.module:
        case "predict":
            return dspy.Predict(signature)
        case "chain_of_thought":
            return _chain_of_thought(program, signature)
        case "react":
            tools = tools_of(program, packages)
            return ReAct(signature, tools=tools, max_iters=options.get("max_iters", _REACT_STEPS))
        case "react_v2":
            tools = tools_of(program, packages)
            return of_dspy("ReActV2")(signature, tools=tools, max_iters=options.get("max_iters", _REACT_STEPS))
        case "code_act":
            tools = tools_of(program, packages)
            return CodeAct(signature, tools=tools, max_iters=options.get("max_iters", _CODE_STEPS))
        case "rlm":
            return RLM(signature, tools=tools_of(program, packages), **_rlm_options(options))
        case "program_of_thought":
            return ProgramOfThought(signature, max_iters=options.get("max_iters", _CODE_TRIES))
        case "best_of_n" | "refine" as kind:
            return (BestOfN if kind == "best_of_n" else Refine)(
                _inner(program, signature),
                N=options["n"],
                reward_fn=load(program, options["reward"], packages),
                threshold=options["threshold"],
            )
        case "optimizer":
            from workers.adapters.dspy.improvement.optimizer_module import OptimizerModule  # it builds modules here

            return OptimizerModule(program)
        case "multi_chain_comparison":
            return MultiChainComparison(
                dspy.ChainOfThought(signature),
                signature,
                M=options.get("m", _CHAINS),
                temperature=options.get("temperature", _CHAINS_TEMPERATURE),
            )
        case other:
            raise ProgramError(f"program {program.name!r}: the dspy adapter does not host module {other!r}")


def _rlm_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``dspy.RLM``; another of the program's models may answer its own questions."""
    given = {name: value for name, value in options.items() if name != "sub_model"}
    return given | ({"sub_lm": find_named(options["sub_model"])} if "sub_model" in options else {})


def _inner(program: Program, signature: type[dspy.Signature]) -> dspy.Module:
    if program.module_options.get("module") == "chain_of_thought":
        return _chain_of_thought(program, signature)
    return dspy.Predict(signature)


def _chain_of_thought(program: Program, signature: type[dspy.Signature]) -> dspy.Module:
    """``dspy.ChainOfThought``; if the signature declares the reasoning itself, it becomes the first output."""
    if REASONING in signature.output_fields:
        field = signature.output_fields[REASONING]
        return dspy.Predict(signature.delete(REASONING).prepend(REASONING, field, field.annotation))
    return dspy.ChainOfThought(signature)


def _custom(program: Program, signature: type[dspy.Signature], packages: Collection[str]) -> dspy.Module:
    """The module that the user's factory makes of the options; a parameter ``signature`` gets the program's."""
    with configured_at_import(program.module.partition(":")[0]):
        factory = load(program, program.module, packages)
    options = dict(program.module_options)
    # DSPy's metaclass hides the parameters of a module's class.
    made_by = vars(factory).get("__init__", factory) if isinstance(factory, type) else factory
    if "signature" in signature_of(made_by).parameters:
        options["signature"] = signature
    module = factory(**options)
    if not isinstance(module, dspy.Module):
        raise ProgramError(
            f"program {program.name!r}: {program.module!r} gave a {type(module).__name__}, not a dspy.Module",
            code="not_a_module",
            program=program.name,
        )
    return module
