"""Readers of DSPy whose time grows with the square of an answer's length or worse, replaced by linear ones.

DSPy hands model answers to json_repair, and finds code fences with patterns that look for the end of a fence from each
of its beginnings. The replacements return the same, except that JSON which is cut off or has several meanings is not
repaired.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from dspex.signatures.values.loose_json import NotJsonError, read_json

__all__ = ["REPAIRING_MODULES", "code_in_fence", "code_of_program", "install", "repaired"]

#: DSPy's modules that call json_repair.
REPAIRING_MODULES = (
    "dspy.adapters._legacy_type_markers",
    "dspy.adapters.base",
    "dspy.adapters.json_adapter",
    "dspy.adapters.two_step_adapter",
    "dspy.adapters.types.base_type",
    "dspy.adapters.types.tool",
    "dspy.adapters.utils",
)

_FENCE = "```"
_PYTHON_FENCE = re.compile("```python[ \n]")
_FENCE_END = re.compile("[ \n]``")
_ASSIGNED = re.compile(r"(\w+)\s*=")


def install() -> None:
    """Have DSPy use these readers. Doing it again changes nothing."""
    for name in REPAIRING_MODULES:
        vars(import_module(name))["json_repair"] = _LooseJson
    vars(import_module("dspy.adapters.types.code"))["_filter_code"] = code_in_fence


def repaired(text: str) -> Any:
    """The JSON that a text is, as :func:`read_json` reads it; "" for all else, as json_repair has it."""
    try:
        return read_json(text)[0]
    except NotJsonError:
        return ""


class _LooseJson:
    """What DSPy uses of the module json_repair."""

    loads = staticmethod(repaired)


def code_in_fence(code: str) -> str:
    """The content of the first code fence, without its language; the whole text without a fence."""
    begin = code.find(_FENCE)
    if begin < 0:
        return code
    line = code.find("\n", begin) + 1
    end = code.find(_FENCE, line) if line else -1
    if end < 0:  # a fence within a line
        line = begin + len(_FENCE)
        end = code.find(_FENCE, line)
    return code if end < 0 else code[line:end].strip()


def code_of_program(answer: str) -> tuple[str, str | None]:
    """The Python code in an answer of ``dspy.ProgramOfThought``, and why it cannot be run; None if it can."""
    code = answer.split("---", 1)[0].split("\n\n\n", 1)[0]
    block = code
    if (begin := _PYTHON_FENCE.search(code)) and (end := _FENCE_END.search(code, begin.end())):
        block = code[begin.end() : end.start()]
    if not block:
        return code, "Error: Empty code after parsing."
    if "\n" not in block and block.count("=") > 1:
        return code, "Error: Code format is not correct."
    if assigned := _ASSIGNED.match(block.split("\n")[-1].strip()):
        block += f"\n{assigned[1]}"
    return block, None
