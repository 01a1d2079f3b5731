"""The README's example, run as it is printed: a real stack, a real worker, the bundled model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from dspex.embedded.stack import EmbeddedStack

ROOT = Path(__file__).parents[2]


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return str(code)


def test_the_example_runs_on_the_embedded_stack(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EmbeddedStack(home, flower=False, beat=False, durable=False, worker_grace=5):
        environment = {**os.environ, "DSPEX_HOME": str(home)}
        done = subprocess.run(
            [sys.executable, "-c", example()],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    answer, trail = done.stdout.splitlines()
    assert "Paris" in answer
    assert trail.startswith(
        "['signature_compilation', 'input_validation', 'submitted', 'claimed', 'adapter_execution', 'lm_call'"
    )
    assert trail.endswith("Verdict(faults=())")


def test_the_example_is_as_short_as_it_says() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 14
