"""The modules that a program can name, their options, and references to users' code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dspex.errors import FieldError

__all__ = [
    "MODULES",
    "is_custom",
    "is_in_dspy",
    "is_mcp",
    "is_reference",
    "is_within",
    "module_faults",
    "runs_code",
]

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_NUMBERS = re.compile(r"(\d+)\.(\d+)")
_MCP = re.compile(r"mcp\+(?:stdio://[\w.-]+|https?://[^\s#]+)(?:#[\w.-]+(?:,[\w.-]+)*)?", re.ASCII)


def is_reference(text: object) -> bool:
    """Whether it has the form ``package.module:name``, with one name after the colon, so without attribute access."""
    return isinstance(text, str) and len(text) <= 200 and _REFERENCE.fullmatch(text) is not None


def is_mcp(text: object) -> bool:
    """Whether it names an MCP server, ``mcp+https://host/path`` or ``mcp+stdio://name``, perhaps with the tools to take
    from it: ``#search,read``."""
    return isinstance(text, str) and len(text) <= 500 and _MCP.fullmatch(text) is not None


def is_within(module: str, packages: Iterable[str]) -> bool:
    """Whether a module is one of these packages or in one of them."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def is_custom(module: str) -> bool:
    """Whether it names a user's factory rather than one of :data:`MODULES`."""
    return ":" in module


def runs_code(module: str) -> bool:
    """Whether it is one of :data:`MODULES` that runs code which the model writes."""
    return module in MODULES and MODULES[module].runs_code


def is_in_dspy(module: str, release: str) -> bool:
    """Whether a release of DSPy, or a pre-release of it, has what one of :data:`MODULES` is made from."""
    removed_in, numbers = MODULES[module].removed_in if module in MODULES else None, _NUMBERS.match(release)
    return removed_in is None or numbers is None or (int(numbers[1]), int(numbers[2])) < removed_in


@dataclass(frozen=True, slots=True)
class _Option:
    """An argument of a module: a description of the expected value, and a test for it."""

    expected: str
    fits: Callable[[Any], bool]
    required: bool = False


@dataclass(frozen=True, slots=True)
class _Module:
    """``own_fields`` are fields that the module adds to a signature; ``own_inputs`` are reserved in the inputs only,
    ``own_outputs`` in the outputs. ``own_tools`` are names that no tool may have. ``runs_code``: it runs code that the
    model writes, in the worker's interpreter. ``removed_in``: the release from which on DSPy does not have it."""

    options: Mapping[str, _Option] = field(default_factory=dict)
    calls_tools: bool = False
    needs_tools: bool = True
    takes_mcp: bool = True
    runs_code: bool = False
    removed_in: tuple[int, int] | None = None
    own_fields: Collection[str] = ()
    own_inputs: Collection[str] = ()
    own_outputs: Collection[str] = ()
    own_tools: Collection[str] = ()


def _integer(least: int, most: int, *, required: bool = False) -> _Option:
    return _Option(f"an integer from {least} to {most}", lambda value: _is_integer(value, least, most), required)


def _is_integer(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    ordinary = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return ordinary and least <= value <= most


_INNER = ("predict", "chain_of_thought")
_REWARDED: Mapping[str, _Option] = {
    "n": _integer(1, 100, required=True),
    "threshold": _Option("a number", _is_number, required=True),
    "reward": _Option("'package.module:function'", is_reference, required=True),
    "module": _Option(f"one of {', '.join(_INNER)}", lambda value: value in _INNER),
}
_STEP = ("trajectory", "next_thought", "next_tool_name", "next_tool_args")
_CODE = ("generated_code", "previous_code", "error", "final_generated_code", "code_output")

#: The values of ``Program(module=...)`` besides ``"package.module:factory"``.
MODULES: Mapping[str, _Module] = {
    "predict": _Module(),
    "chain_of_thought": _Module(own_inputs=("reasoning",)),
    "react": _Module(
        {"max_iters": _integer(1, 100)},
        calls_tools=True,
        own_fields=(*_STEP, "reasoning"),
        own_inputs=("max_iters",),
        own_tools=("finish",),
    ),
    "react_v2": _Module(
        {"max_iters": _integer(1, 100)},
        calls_tools=True,
        own_inputs=("history", "max_iters", "next_thought", "tool_calls", "tools"),
        own_outputs=("history", "termination_reason"),
        own_tools=("submit",),
    ),
    "program_of_thought": _Module(
        {"max_iters": _integer(1, 100)}, runs_code=True, removed_in=(3, 5), own_fields=(*_CODE, "reasoning")
    ),
    "code_act": _Module(
        {"max_iters": _integer(1, 100)},
        calls_tools=True,
        needs_tools=False,
        takes_mcp=False,  # the source of its tools runs in the interpreter
        runs_code=True,
        removed_in=(3, 5),
        own_fields=("finished", "generated_code", "reasoning", "trajectory"),
        own_inputs=("interpreter", "max_iters"),
    ),
    "rlm": _Module(
        {
            "max_iters": _integer(1, 100),
            "max_llm_calls": _integer(1, 10_000),
            "max_output_chars": _integer(100, 10_000_000),
            "sub_model": _Option("the name of one of the program's models", lambda value: isinstance(value, str)),
        },
        calls_tools=True,
        needs_tools=False,
        runs_code=True,
        own_inputs=("SUBMIT", "interpreter_factory", "llm_query", "llm_query_batched", "print"),
        own_outputs=("final_reasoning", "trajectory"),
        own_tools=("SUBMIT", "llm_query", "llm_query_batched", "print"),
    ),
    # Of the jobs of `client.optimize`.
    "optimizer": _Module(),
    "best_of_n": _Module(_REWARDED),
    "refine": _Module(_REWARDED, own_fields=("hint_",)),
    "multi_chain_comparison": _Module(
        {
            "m": _integer(2, 20),
            "temperature": _Option("a number from 0 to 2", lambda value: _is_number(value, 0, 2)),
        },
        own_fields=("rationale", "reasoning", *(f"reasoning_attempt_{number}" for number in range(1, 21))),
    ),
}


def module_faults(
    module: str, options: Mapping[str, Any], tools: Collection[Any], inputs: Collection[str], outputs: Collection[str]
) -> Iterator[FieldError]:
    """The faults of a program's module, its options, its tools, and its signature's fields for this module."""
    if is_custom(module):
        yield from _custom_faults(module, options, tools)
    elif spec := MODULES.get(module):
        yield from _option_faults(module, spec, options)
        yield from _tool_faults(module, spec, tools)
        taken = {*spec.own_inputs}
        if options.get("module") == "chain_of_thought":
            taken |= {*MODULES["chain_of_thought"].own_inputs}
        clashes = taken.intersection(inputs) | set(spec.own_outputs).intersection(outputs)
        for name in sorted(clashes | set(spec.own_fields).intersection([*inputs, *outputs])):
            yield FieldError("signature", f"another name for {name!r}, which module {module!r} reserves")


def _custom_faults(module: str, options: Mapping[str, Any], tools: Collection[Any]) -> Iterator[FieldError]:
    if not is_reference(module):
        yield FieldError("module", "'package.module:factory'", repr(module)[:80])
    if tools:
        yield FieldError("tools", "none: a custom module has its own tools", f"{len(tools)}")
    if "signature" in options:
        yield FieldError("module_options.signature", "nothing: a factory receives the program's signature")


def _option_faults(module: str, spec: _Module, options: Mapping[str, Any]) -> Iterator[FieldError]:
    for name in sorted(set(options) - set(spec.options)):
        known = ", ".join(sorted(spec.options)) or "no options"
        yield FieldError(f"module_options.{name}", f"module {module!r} takes {known}")
    for name, option in spec.options.items():
        if name in options and not option.fits(options[name]):
            yield FieldError(f"module_options.{name}", option.expected, repr(options[name])[:80])
        elif option.required and name not in options:
            yield FieldError(f"module_options.{name}", option.expected, "nothing")


def _tool_faults(module: str, spec: _Module, tools: Collection[Any]) -> Iterator[FieldError]:
    if not spec.calls_tools:
        if tools:
            yield FieldError("tools", f"none, since module {module!r} calls no tools", f"{len(tools)}")
        return
    if not tools and spec.needs_tools:
        yield FieldError(
            "tools", f"functions that module {module!r} may call: ['package.module:function', …]", "nothing"
        )
    for tool in tools:
        if not is_reference(tool) and not (is_mcp(tool) and spec.takes_mcp):
            servers = ", 'mcp+https://host/path' or 'mcp+stdio://name'" if spec.takes_mcp else ""
            yield FieldError("tools", f"'package.module:function'{servers}", repr(tool)[:80])
    names = [str(tool).rpartition(":")[2] for tool in tools if is_reference(tool)]
    for name in sorted({name for name in names if names.count(name) > 1 or name in spec.own_tools}):
        why = f"module {module!r} has a tool of this name" if name in spec.own_tools else "two tools have this name"
        expected = "functions of different names" + "".join(f", none of them {own!r}" for own in spec.own_tools)
        yield FieldError("tools", expected, f"{name!r}: {why}")
