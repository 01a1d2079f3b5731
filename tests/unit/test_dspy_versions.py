"""Releases of DSPy: what one lacks is refused in one sentence, and all else runs."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location

import dspy
import pytest

from dspex.errors import ProgramError
from dspex.operations.doctor.operations.version_checks import TESTED_DSPY
from dspex.program.modules import MODULES, is_in_dspy
from workers.adapters.dspy.dspy_versions import of_dspy
from workers.adapters.dspy.modules import agents


@pytest.mark.parametrize("release", ["3.5.0", "3.5.0b1", "3.6", "4.0.1"])
def test_a_release_lacks_what_was_removed_before(release: str) -> None:
    lacking = {module for module in MODULES if not is_in_dspy(module, release)}
    assert lacking == {"program_of_thought", "code_act"}


def test_tested_releases_lack_nothing() -> None:
    assert all(is_in_dspy(module, release) for module in MODULES for release in TESTED_DSPY)
    assert dspy.__version__ in TESTED_DSPY


def test_modules_that_this_dspy_lacks_cannot_be_made_and_the_others_can(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ProgramOfThought", "CodeAct", "ReActV2"):
        monkeypatch.delattr(dspy, name)
    spec = spec_from_file_location("agents_of_another_dspy", agents.__file__)
    assert spec is not None
    assert spec.loader is not None
    without = module_from_spec(spec)
    spec.loader.exec_module(without)
    with pytest.raises(ProgramError, match="has no CodeAct: use module 'rlm'") as refused:
        without.CodeAct("question -> answer", tools=[], max_iters=1)
    assert (refused.value.code, refused.value.retryable) == ("module_missing", True)
    assert without.RLM.__mro__[-1] is object
    assert issubclass(without.RLM, dspy.RLM)
    assert of_dspy("ReActV2") is dspy.ReAct  # its name since 3.5
