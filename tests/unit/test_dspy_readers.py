"""The linear readers that DSPy is given return what DSPy's own return."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.adapters.utils import parse_value
from hypothesis import given
from hypothesis import strategies as st

from workers.adapters.dspy import linear_readers
from workers.adapters.dspy.linear_readers import REPAIRING_MODULES, code_in_fence, code_of_program

#: Answers made of what the readers look for.
ANSWERS = st.lists(st.sampled_from(["```", "python", " ", "\n", "``", "`", "a", "a = 1", "=", "---"]), max_size=12)


def test_every_module_of_dspy_that_repairs_json_is_known() -> None:
    found = {
        name for name, module in [*sys.modules.items()] if name.startswith("dspy.") and hasattr(module, "json_repair")
    }
    assert found == set(REPAIRING_MODULES)


@pytest.mark.parametrize("text", ['{"a": 1,}', "{a: 1}", '{"a": 1' + " " * 3000 + ",}"], ids=len)
def test_dspy_repairs_json_with_slips(text: str) -> None:
    linear_readers.install()
    assert parse_value(text, dict[str, int]) == {"a": 1}


def test_dspy_does_not_close_json_that_is_cut_off() -> None:
    linear_readers.install()
    with pytest.raises(ValueError, match="dict"):
        parse_value('{"a": 1,', dict[str, int])


@given(ANSWERS)
def test_code_is_found_where_dspy_finds_it(parts: list[str]) -> None:
    answer = "".join(parts)
    dspys = dspy.ProgramOfThought._parse_code(None, {"generated_code": answer})
    assert code_of_program(answer) == dspys
    assert code_in_fence(answer) == ORIGINAL._filter_code(answer)


def _as_dspy_has_it(name: str) -> Any:
    """Another copy of the module, which nothing was put into."""
    path = Path(dspy.__file__).parent.joinpath(*name.split(".")[1:]).with_suffix(".py")
    spec = spec_from_file_location("original_code", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ORIGINAL: Any = _as_dspy_has_it("dspy.adapters.types.code")
