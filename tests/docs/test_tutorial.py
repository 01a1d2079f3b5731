"""The tutorial: every file and every command, including the crash, on a stack of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks
from tests.docs.stack import stack_with_worker
from tests.local_model import needs_model
from tests.processes import run_module

PAGE = ROOT / "docs" / "tutorial" / "first-execution.md"


@pytest.fixture
def stack(fork_server: None, tmp_path: Path) -> Iterator[Path]:
    """The directory of the tutorial, and the stack that ``dspex up`` would start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSPEX_LEASE_SECONDS", "2")  # recovery takes less time
        with stack_with_worker(tmp_path / "home", tmp_path / "worker.log"):
            yield tmp_path


def typed(block: Block, place: Path) -> str:
    """What a terminal shows when the block's commands are typed, one after the other."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment["DSPEX_HOME"] = str(place / "home")
    shown, code = "", 0
    for command in (line[2:] for line in block.text.splitlines() if line.startswith("$ ")):
        done = _run(command, code, environment, place)
        shown, code = shown + done.stdout + done.stderr, done.returncode
    return shown


def _run(command: str, last_code: int, environment: dict[str, str], place: Path) -> subprocess.CompletedProcess[str]:
    """``dspex …`` and ``python FILE.py`` run in forks, which need not import libraries: 0.1 s of CPU rather than 2."""
    if command.startswith(("dspex ", "python ")):
        program, *arguments = shlex.split(command)
        module = ["dspex.cli", *arguments] if program == "dspex" else [arguments[0].removesuffix(".py")]
        return run_module(*module, environment=environment, directory=place)
    shell = ["bash", "-c", f"(exit {last_code})\n{command}"]
    return subprocess.run(shell, env=environment, cwd=place, capture_output=True, text=True, timeout=240, check=False)


def promised(block: Block) -> Iterator[str]:
    """The lines of output that never change: those without an id or a duration."""
    for line in block.text.splitlines():
        if not line.startswith("$ ") and not any(part in line for part in ("01a2", " ms", "…")):
            yield line


def spaced_once(text: str) -> str:
    """The text without the widths of its columns: a duration of 10 ms is wider than one of 9 ms."""
    return re.sub(r" +", " ", text)


@needs_model
def test_the_tutorial(stack: Path) -> None:
    for block in blocks(PAGE):
        if block.path:
            (stack / block.path).write_text(block.text)
        elif block.language == "console" and not block.reason:
            shown = typed(block, stack)
            for line in promised(block):
                if "calls were replayed" not in line:  # how many depends on the machine
                    assert spaced_once(line) in spaced_once(shown), f"{block}: {line!r} is not in\n{shown}"
    assert '"answer":"Paris"' in (stack / "answers.jsonl").read_text()
    assert "constraint_violation" in (stack / "answers.errors.jsonl").read_text()
