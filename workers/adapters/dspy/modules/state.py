"""An optimised program's state: checked against the module it is for, then applied. It is JSON, never a pickle."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.signatures.signature import infer_prefix

from dspex.errors import ProgramError
from dspex.program.program import Program
from workers.adapters.dspy.dspy_hooks import named_models
from workers.adapters.dspy.dspy_signature import dspy_names
from workers.adapters.dspy.user_text import stored_media

__all__ = ["apply_state"]

log = logging.getLogger("dspex.workers")

# What a predictor's state holds besides its signature, demos and model; none of it matters to a run.
_BOOKKEEPING: Mapping[str, Any] = {"traces": [], "train": []}
# What an example may have besides the predictor's fields: what the optimisers note there.
_NOTED = frozenset({"reasoning", "rationale", "augmented"})


def apply_state(program: Program, module: dspy.Module, state: Mapping[str, Any]) -> None:
    """Load what ``dspy.Module.dump_state()`` gave: instructions, field descriptions and demos of each predictor.

    A predictor whose state names a model runs on it if it is one of the program's ``models``; on the program's own
    otherwise, since a state has neither its address nor its key. Parts may be missing, so that
    ``state={"demos": [...]}`` gives examples to a single predictor.

    Raises ProgramError ``state_mismatch``.
    """
    predictors = dict(module.named_predictors())
    states = dict.fromkeys(predictors, state) if len(predictors) == 1 and _is_single(state) else dict(state)
    states.pop("metadata", None)
    if set(states) != set(predictors):
        raise _misfit(program, f"it is for the predictors {_named(states)}, the module has {_named(predictors)}")
    checked = {name: _checked(program, name, predictors[name], states[name]) for name in predictors}
    for name, predictor in predictors.items():
        predictor.load_state(checked[name])
        predictor.lm = _model(program, name, states[name].get("lm"))


def _model(program: Program, predictor: str, state: Any) -> dspy.LM | None:
    """The one of the program's ``models`` that the state of a predictor names; None for the program's own."""
    named = state.get("model") if isinstance(state, Mapping) else None
    if named is None or named == program.model:
        return None
    for name, model in program.named_models.items():
        if model.model == named:
            return named_models(program)(name)
    log.warning(
        "the state of program %r has model %.100r for predictor %r, which is none of its models: it runs on %s",
        program.name, named, predictor, program.model,
    )  # fmt: skip
    return None


def _is_single(state: Mapping[str, Any]) -> bool:
    return "demos" in state or "signature" in state


def _checked(program: Program, name: str, predictor: dspy.Predict, state: Any) -> dict[str, Any]:
    """A predictor's state, complete, or ProgramError: DSPy itself would silently put texts to the wrong fields."""
    if not isinstance(state, Mapping):
        raise _misfit(program, f"the state of predictor {name!r} is no mapping")
    if unknown := sorted(set(state) - {"traces", "train", "demos", "signature", "lm"}):
        raise _misfit(program, f"predictor {name!r} has {_named(unknown)}, which a predictor's state does not")
    complete: dict[str, Any] = {
        **_BOOKKEEPING,
        "demos": [],
        "signature": predictor.signature.dump_state(),
        **copy.deepcopy({key: state[key] for key in ("demos", "signature") if key in state}),
        "lm": None,
    }
    if "signature" in state:
        _check_fields(program, name, predictor.signature, complete["signature"])
    complete["demos"] = _demos(program, name, predictor.signature, complete["demos"])
    return complete


def _check_fields(program: Program, predictor: str, signature: type[dspy.Signature], state: Any) -> None:
    """A state names its fields by prefix only, which optimisers may rewrite for the last output."""
    fields = state.get("fields") if isinstance(state, Mapping) else None
    if not isinstance(fields, list) or len(fields) != len(signature.fields):
        count = len(fields) if isinstance(fields, list) else "no"
        raise _misfit(
            program,
            f"it describes {count} fields of predictor {predictor!r}, whose signature has {len(signature.fields)}",
        )
    if not isinstance(state.get("instructions"), str):
        raise _misfit(program, f"it has no instructions for predictor {predictor!r}")
    original = {ours: name for name, ours in dspy_names(program.signature).items()}
    own = [field["prefix"] for field in signature.dump_state()["fields"]]
    for position, (ours, field) in enumerate(zip(signature.fields, fields, strict=True), 1):
        name = original.get(ours, ours)
        prefix = str(field.get("prefix", "")) if isinstance(field, Mapping) else ""
        fitting = (own[position - 1], f"{infer_prefix(name)}:", f"{infer_prefix(ours)}:")
        if prefix not in fitting and position < len(fields):
            raise _misfit(program, f"its field {position} of predictor {predictor!r} is {prefix!r}, not {name!r}")


def _demos(program: Program, predictor: str, signature: type[dspy.Signature], demos: Any) -> list[dict[str, Any]]:
    """The examples under the fields' names in DSPy."""
    if not isinstance(demos, list) or not all(isinstance(demo, Mapping) for demo in demos):
        raise _misfit(program, f"the demos of predictor {predictor!r} are no list of mappings")
    names = dspy_names(program.signature)
    named = [{names.get(name, name): value for name, value in demo.items()} for demo in demos]
    if unknown := sorted({name for demo in named for name in demo} - {*signature.fields, *_NOTED}):
        raise _misfit(
            program, f"the demos of predictor {predictor!r} have {_named(unknown)}, which its signature does not"
        )
    media = [name for name, field in signature.fields.items() if _is_media(field.annotation)]
    for demo in named:
        demo.update({name: stored_media(demo[name]) or demo[name] for name in media if isinstance(demo.get(name), str)})
    return named


def _is_media(annotation: Any) -> bool:
    return bool(dspy.Type.extract_custom_type_from_annotation(annotation))


def _misfit(program: Program, why: str) -> ProgramError:
    return ProgramError(
        f"the state of program {program.name!r} does not fit: {why}; save it again from a module with this signature",
        code="state_mismatch",
        program=program.name,
    )


def _named(names: Any) -> str:
    return ", ".join(map(repr, names)) or "nothing"
