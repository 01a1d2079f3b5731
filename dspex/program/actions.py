"""Manual actions: steps that a worker runs around a program, declared with the program.

Two are built in: ``complex_validation`` and ``resource_management``. Any other is a user's function,
``"package.module:function"``, of a package in ``DSPEX_PROGRAM_PACKAGES``; see docs/how-to/add-an-action.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dspex.errors import FieldError
from dspex.program.field_rules import FieldRule, RuleFault

__all__ = ["RESOURCE_LIMITS", "Action"]

BUILT_IN = ("complex_validation", "resource_management")
POLICIES = ("fail", "warn")
#: The options of ``resource_management``: limits of one attempt.
RESOURCE_LIMITS = ("max_cpu_seconds", "max_memory_mb", "max_model_seconds", "max_lm_calls")

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Action:
    """A manual action of a program; in ``Program(actions=...)`` its bare name means one without options.

    ``name``        ``"complex_validation"``, ``"resource_management"`` or ``"package.module:function"``
    ``on_failure``  ``"fail"``: the attempt fails when the action does; ``"warn"``: it goes on. Both are recorded
    ``options``     the action's arguments. ``complex_validation``: ``rules``, a list of texts such as
                    ``"summary.length <= review.length"``. ``resource_management``: ``max_cpu_seconds``,
                    ``max_memory_mb`` (of the worker process), ``max_model_seconds``, ``max_lm_calls``
    """

    name: str
    on_failure: str = "fail"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, stored: Any) -> Any:
        """The action that a stored mapping describes; any other value unchanged."""
        if isinstance(stored, Mapping) and "name" in stored and set(stored) <= {"name", "on_failure", "options"}:
            return cls(**stored)
        return stored

    def faults(self, fields: Collection[str]) -> Iterator[FieldError]:
        """The faults of the action in a program whose signature has these fields."""
        path = f"actions.{self.name}"
        if self.name not in BUILT_IN and not (isinstance(self.name, str) and _FUNCTION.fullmatch(self.name)):
            yield FieldError("actions", f"{', '.join(BUILT_IN)} or 'package.module:function'", repr(self.name)[:80])
        if self.on_failure not in POLICIES:
            yield FieldError(f"{path}.on_failure", "'fail' or 'warn'", repr(self.on_failure))
        if not isinstance(self.options, Mapping):
            yield FieldError(f"{path}.options", "a mapping", repr(self.options)[:80])
        elif self.name == "complex_validation":
            yield from _rule_faults(path, self.options, fields)
        elif self.name == "resource_management":
            yield from _limit_faults(path, self.options)


def _rule_faults(path: str, options: Mapping[str, Any], fields: Collection[str]) -> Iterator[FieldError]:
    yield from (FieldError(f"{path}.{name}", "complex_validation reads 'rules'") for name in set(options) - {"rules"})
    rules = options.get("rules", [])
    if not isinstance(rules, list | tuple):
        yield FieldError(f"{path}.rules", "a list of texts", repr(rules)[:80])
        return
    for index, text in enumerate(rules):
        try:
            FieldRule.parse(str(text), fields)
        except RuleFault as fault:
            yield FieldError(f"{path}.rules[{index}]", str(fault))


def _limit_faults(path: str, options: Mapping[str, Any]) -> Iterator[FieldError]:
    for name, value in options.items():
        if name not in RESOURCE_LIMITS:
            yield FieldError(f"{path}.{name}", f"resource_management reads {', '.join(RESOURCE_LIMITS)}")
        elif not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
            yield FieldError(f"{path}.{name}", "a number, more than 0", repr(value))
