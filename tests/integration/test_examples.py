"""The programs of examples/support_desk on the bundled model; with a scripted one: test_testing_kit.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.homes import copy_home
from tests.local_model import needs_model
from tests.processes import run_module

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "support_desk"
FINDS_IT = {"PYTHONPATH": f"{PROJECT}{os.pathsep}{ROOT}", "DSPEX_PROGRAM_PACKAGES": "support_desk"}


@needs_model
@pytest.mark.usefixtures("fork_server")
def test_the_support_desk_on_the_bundled_model(tmp_path: Path) -> None:
    copy_home(tmp_path / "home")
    environment = {**os.environ, **FINDS_IT, "DSPEX_HOME": str(tmp_path / "home")}
    programs = ["desk_answers", "desk_triage"]  # the agent takes a minute
    done = run_module(
        "support_desk", "--first", "1", *programs, environment=environment, directory=PROJECT, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" of 1 right") == 2
    assert "failed:" not in done.stdout
