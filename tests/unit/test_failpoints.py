"""Failpoints: what arms them, and what does not."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from pathlib import Path

import pytest

import dspex
from dspex.settings import Settings, failpoints
from tests.processes import run_module

ROOT = Path(__file__).parents[2]


def passing(spec: str, passages: int = 1) -> subprocess.CompletedProcess[str]:
    """A process that arms ``spec`` and passes after_claim so many times."""
    script = (
        "from dspex.settings.failpoints import AFTER_CLAIM, arm, failpoint\n"
        f"arm({spec!r})\n"
        f"for n in range({passages}):\n"
        "    failpoint(AFTER_CLAIM)\n"
        "    print(n, flush=True)\n"
    )
    return run_module("-c", script, environment=os.environ, directory=ROOT)


pytestmark = pytest.mark.usefixtures("fork_server")


def test_unarmed_they_are_passed() -> None:
    failpoints.failpoint(failpoints.AFTER_CLAIM)
    assert passing("", 2).stdout == "0\n1\n"


def test_kill_ends_the_process_at_the_named_passage() -> None:
    done = passing("after_claim=kill@3", 5)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "0\n1\n"


def test_error_raises_at_each_passage() -> None:
    done = passing("after_claim=error")
    assert "FailpointReached: failpoint 'after_claim' was reached" in done.stderr


def test_one_point_armed_leaves_the_others_alone() -> None:
    assert passing("before_settle=kill").returncode == 0


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("after_clame=kill", "did you mean 'after_claim'"),
        ("after_claim", "is not one of kill, stop, hang, error"),
        ("after_claim=explode", "'explode' is not one of"),
        ("after_claim=kill@0", "a number from 1"),
        ("after_claim=kill@often", "a number from 1"),
    ],
)
def test_a_wrong_spec_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, spec: str, says: str) -> None:
    monkeypatch.setenv("DSPEX_FAILPOINTS", spec)
    with pytest.raises(dspex.ConfigurationError, match="DSPEX_FAILPOINTS") as error:
        Settings.load()
    assert says in str(error.value)


def test_production_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_FAILPOINTS", "after_claim=kill")
    with pytest.raises(dspex.ConfigurationError, match="failpoints cannot be used in production"):
        Settings.load(env="production", database_url="postgresql://db/x", broker_url="redis://r/0")


@pytest.mark.parametrize("name", sorted(failpoints.NAMES))
def test_each_is_passed_at_one_place_and_explained(name: str) -> None:
    source = (ROOT / "dspex" / "settings" / "failpoints.py").read_text()
    constant = name.upper()
    lines = source.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"{constant} = "))
    assert lines[at - 1].startswith("#:")
    assert whole_source().count(f"failpoint({constant})") == 1


@functools.cache
def whole_source() -> str:
    paths = [path for package in ("dspex", "workers") for path in (ROOT / package).rglob("*.py")]
    return "\n".join(path.read_text() for path in paths)


def test_this_process_is_not_armed() -> None:
    assert "DSPEX_FAILPOINTS" not in os.environ
