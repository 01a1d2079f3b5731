"""Programs as DSPy modules: built from their content, with an optimised program's state applied."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.signatures.signature import infer_prefix

from dspex.errors import ProgramError
from dspex.program import Program
from workers.dspy_signature import Flavour, dspy_names, dspy_signature

__all__ = ["REASONING", "build_module"]

#: The output that ``chain_of_thought`` has the model write first.
REASONING = "reasoning"

# What a predictor's state holds besides its signature, demos and model; none of it matters to a run.
_BOOKKEEPING: Mapping[str, Any] = {"traces": [], "train": []}


def build_module(program: Program, flavour: Flavour) -> dspy.Module:
    """The program's module with its state. Raises ProgramError when the state does not fit the signature."""
    signature = dspy_signature(program.signature, flavour)
    match program.module:
        case "predict":
            module = dspy.Predict(signature)
        case "chain_of_thought":
            module = _chain_of_thought(program, signature)
        case other:
            raise ProgramError(f"program {program.name!r}: the dspy adapter does not host module {other!r}")
    if program.state:
        _apply_state(program, module, program.state)
    return module


def _chain_of_thought(program: Program, signature: type[dspy.Signature]) -> dspy.Module:
    """``dspy.ChainOfThought``; a signature that declares the reasoning itself has it asked for first."""
    if REASONING in signature.input_fields:
        raise ProgramError(
            f"program {program.name!r}: chain_of_thought writes an output named {REASONING!r}, which the signature has "
            "as an input; rename that input"
        )
    if REASONING in signature.output_fields:
        field = signature.output_fields[REASONING]
        return dspy.Predict(signature.delete(REASONING).prepend(REASONING, field, field.annotation))
    return dspy.ChainOfThought(signature)


def _apply_state(program: Program, module: dspy.Module, state: Mapping[str, Any]) -> None:
    """Load what ``dspy.Module.dump_state()`` gave: instructions, field descriptions and demos of each predictor.

    The model named in a state is left out: the program names its own, and only that one is journaled. Parts may be
    missing, so that ``state={"demos": [...]}`` gives examples to a single predictor.
    """
    predictors = dict(module.named_predictors())
    states = dict.fromkeys(predictors, state) if len(predictors) == 1 and _is_single(state) else dict(state)
    states.pop("metadata", None)
    if set(states) != set(predictors):
        raise _misfit(program, f"it is for the predictors {_named(states)}, the module has {_named(predictors)}")
    for name, predictor in predictors.items():
        predictor.load_state(_checked(program, predictor, states[name]))


def _is_single(state: Mapping[str, Any]) -> bool:
    return "demos" in state or "signature" in state


def _checked(program: Program, predictor: dspy.Predict, state: Any) -> dict[str, Any]:
    """A predictor's state, complete, or ProgramError: DSPy itself would silently put texts to the wrong fields."""
    if not isinstance(state, Mapping):
        raise _misfit(program, "a predictor's state is a mapping")
    if unknown := sorted(set(state) - {"traces", "train", "demos", "signature", "lm"}):
        raise _misfit(program, f"it has {_named(unknown)}, which a predictor's state does not")
    complete: dict[str, Any] = {
        **_BOOKKEEPING,
        "demos": [],
        "signature": predictor.signature.dump_state(),
        **copy.deepcopy({key: state[key] for key in ("demos", "signature") if key in state}),
        "lm": None,
    }
    _check_fields(program, predictor.signature, complete["signature"])
    complete["demos"] = _demos(program, predictor.signature, complete["demos"])
    return complete


def _check_fields(program: Program, signature: type[dspy.Signature], state: Any) -> None:
    """A state names its fields by prefix only, which optimisers may rewrite for the last output."""
    fields = state.get("fields") if isinstance(state, Mapping) else None
    if not isinstance(fields, list) or len(fields) != len(signature.fields):
        count = len(fields) if isinstance(fields, list) else "no"
        raise _misfit(program, f"it describes {count} fields, the module's signature has {len(signature.fields)}")
    if not isinstance(state.get("instructions"), str):
        raise _misfit(program, "it has no instructions")
    original = {ours: name for name, ours in dspy_names(program.signature).items()}
    for position, (ours, field) in enumerate(zip(signature.fields, fields, strict=True), 1):
        name = original.get(ours, ours)
        prefix = str(field.get("prefix", "")) if isinstance(field, Mapping) else ""
        if prefix not in (f"{infer_prefix(name)}:", f"{infer_prefix(ours)}:") and position < len(fields):
            raise _misfit(program, f"its field {position} is {prefix!r}, the signature's is {name!r}")


def _demos(program: Program, signature: type[dspy.Signature], demos: Any) -> list[dict[str, Any]]:
    """The examples under the fields' names in DSPy."""
    if not isinstance(demos, list) or not all(isinstance(demo, Mapping) for demo in demos):
        raise _misfit(program, "demos are a list of mappings")
    names = dspy_names(program.signature)
    named = [{names.get(name, name): value for name, value in demo.items()} for demo in demos]
    known = {*signature.fields, REASONING, "rationale", "augmented"}
    if unknown := sorted({name for demo in named for name in demo} - known):
        raise _misfit(program, f"its demos have {_named(unknown)}, which the signature does not")
    return named


def _misfit(program: Program, why: str) -> ProgramError:
    return ProgramError(
        f"the state of program {program.name!r} does not fit: {why}; save it again from a module with this signature",
        code="state_mismatch",
        program=program.name,
    )


def _named(names: Any) -> str:
    return ", ".join(map(repr, names)) or "nothing"
