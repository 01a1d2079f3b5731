"""A user's own package named ``workers`` neither takes the place of DSPex's nor goes unnoticed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

import dspex
from dspex.operations.doctor.check import CheckVerdict
from dspex.operations.doctor.examination import examine
from dspex.program.worker_package import LAUNCH, hidden_package, hidden_warning
from dspex.settings import Settings


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a project with such a package."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_process_of_dspex_runs_its_own_package(mine: Path) -> None:
    command = ["-m", "workers.process.fleet", "--help"]
    plain, launched = (
        subprocess.run([sys.executable, *start, *command], cwd=mine, capture_output=True, text=True, check=False)
        for start in ((), LAUNCH)
    )
    assert "the wrong package" in plain.stderr
    assert (launched.returncode, "--processes" in launched.stdout) == (0, True), launched.stderr


def test_the_package_is_noticed(mine: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with contextlib.chdir(tmp_path_factory.mktemp("empty")):
        assert hidden_package() is None
    assert hidden_package() == str(mine / "workers" / "__init__.py")
    assert "rename it" in str(hidden_warning())
    (found,) = [each for each in examine(only=["configuration"]).results if each.check.name.endswith("package_name")]
    assert found.verdict is CheckVerdict.WARNING
    assert str(mine) in found.evidence


def test_a_package_without_an_init_is_noticed_if_it_has_modules(mine: Path) -> None:
    (mine / "workers" / "__init__.py").unlink()
    assert hidden_package() is None
    (mine / "workers" / "nightly.py").touch()
    assert hidden_package() == str(mine / "workers")


def test_programs_cannot_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", "acme,workers.programs")
    with pytest.raises(dspex.ConfigurationError, match="rename yours"):
        Settings.load()
