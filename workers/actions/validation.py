"""``complex_validation``: rules between fields, and a report on every field.

Rules (``dspex/program/field_rules.py``) about inputs alone are checked before the program runs, so that no model call
is paid for with inputs that break them. The report has the type, size and constraints of each field, never its value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dspex.errors import ActionFailed
from dspex.program.field_rules import FieldRule
from dspex.signatures import Field
from workers.actions import ActionRun, Proceed

__all__ = ["complex_validation"]


async def complex_validation(run: ActionRun, proceed: Proceed) -> Mapping[str, Any]:
    """Check the rules. Raises ActionFailed (``rule_violated``) with the report; retryable if outputs are at fault."""
    signature, inputs = run.program.signature, run.inputs
    on_inputs, on_both = _rules(run)
    report: dict[str, Any] = {"rules": _checked(on_inputs, inputs), "inputs": _fields(signature.input_fields, inputs)}
    _refuse(report, retryable=False)
    outputs = await proceed()
    report["rules"] += _checked(on_both, {**inputs, **outputs})
    report["outputs"] = _fields(signature.output_fields, outputs)
    _refuse(report, retryable=True)
    return {"valid": True, **report}


def _rules(run: ActionRun) -> tuple[list[FieldRule], list[FieldRule]]:
    """The rules about inputs alone, and the others."""
    names = [f.name for f in run.program.signature.input_fields]
    every = [*names, *(f.name for f in run.program.signature.output_fields)]
    rules = [FieldRule.parse(text, every) for text in run.options.get("rules", [])]
    return [r for r in rules if r.fields <= set(names)], [r for r in rules if not r.fields <= set(names)]


def _checked(rules: list[FieldRule], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"rule": rule.text, "holds": rule.holds(values)} for rule in rules]


def _refuse(report: Mapping[str, Any], *, retryable: bool) -> None:
    broken = [rule["rule"] for rule in report["rules"] if rule["holds"] is False]
    if broken:
        raise ActionFailed(
            f"complex_validation: {len(broken)} rule(s) do not hold: {'; '.join(broken)}",
            code="rule_violated",
            retryable=retryable,
            result={"valid": False, **report},
        )


def _fields(fields: tuple[Field, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: dict(_described(field, values.get(field.name))) for field in fields}


def _described(field: Field, value: Any) -> Iterator[tuple[str, Any]]:
    yield "type", str(field.full_type)
    yield "present", value is not None
    if isinstance(value, str | list | Mapping):
        yield "length", len(value)
        yield "depth", _depth(value)
    if value is not None:
        yield "bytes", len(json.dumps(value, default=str, ensure_ascii=False).encode(errors="replace"))
    if field.constraints:
        yield "constraints", sorted(field.constraints)


def _depth(value: Any) -> int:
    """How many lists and mappings are inside each other."""
    if isinstance(value, Mapping):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
