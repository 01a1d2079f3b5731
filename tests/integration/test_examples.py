"""The programs of examples/support_desk on the bundled model; with a scripted one: test_testing_kit.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "support_desk"
FINDS_IT = {"PYTHONPATH": f"{PROJECT}{os.pathsep}{ROOT}", "DSPEX_PROGRAM_PACKAGES": "support_desk"}


def test_the_support_desk_on_the_bundled_model(tmp_path: Path) -> None:
    home = tmp_path / "home"
    # One after the other: then the model reads what their prompts have in common once rather than four times.
    one_by_one = {"DSPEX_WORKER_CONCURRENCY": "1"}
    environment = {**os.environ, **FINDS_IT, **one_by_one, "DSPEX_HOME": str(home)}
    programs = ["desk_answers", "desk_triage"]  # the agent takes a minute
    command = [sys.executable, "-m", "support_desk", "--first", "2", *programs]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" of 2 right") == 2
    assert "failed:" not in done.stdout
