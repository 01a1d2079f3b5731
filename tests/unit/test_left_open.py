"""A test that leaves something open fails: :mod:`tests.left_open`, in a run of pytest of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.processes import run_module

pytestmark = pytest.mark.usefixtures("fork_server")
ROOT = Path(__file__).parents[2]

CONFTEST = """
from tests.left_open import LeftOpen

def pytest_configure(config):
    config.pluginmanager.register(LeftOpen(patience_seconds=0.1))
"""
SUITE = """
import gc
import socket
import subprocess
import threading

import pytest

kept = []
gc.disable()  # it would close what only a cycle holds, at a moment of its own

@pytest.fixture(scope="session")
def of_the_session():
    with socket.socket():
        yield

@pytest.fixture(scope="module")
def of_the_module():
    with socket.socket() as opened:
        yield opened

def test_a_socket():
    kept.append(socket.socket())

def test_only_a_cycle_holds_it():
    class Holder:
        pass
    holder = Holder()
    holder.itself, holder.held = holder, socket.socket()

def test_a_file():
    kept.append(open(__file__))

def test_a_thread():
    threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()

def test_a_process():
    kept.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))

def test_all_is_closed(of_the_session):
    with socket.socket(), open(__file__):
        threading.Thread(target=print).start()

def test_a_module_holds_it(of_the_module):
    pass
"""
LEFT = {
    "test_a_socket": "socket.socket",
    "test_only_a_cycle_holds_it": "socket.socket",
    "test_a_file": "test_suite.py",
    "test_a_thread": "thread 'forgotten'",
    "test_a_process": "process",
}


def test_whoever_leaves_something_open_fails(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE)
    failed = dict(line.removeprefix("ERROR test_suite.py::").split(" - ", 1) for line in errors(done))
    assert failed.keys() == LEFT.keys(), done.stdout
    for test, what in LEFT.items():
        assert "left open: " in failed[test]
        assert what in failed[test]


def test_a_fixture_of_a_module_that_leaves_something_fails_its_last_test(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE.replace("yield opened", "yield opened.dup()"))
    assert "ERROR test_suite.py::test_a_module_holds_it - Failed: left open" in done.stdout


def run(place: Path, suite: str, *, conftest: str = CONFTEST) -> subprocess.CompletedProcess[str]:
    (place / "conftest.py").write_text(conftest)
    (place / "test_suite.py").write_text(suite)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "500", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ("-q", "-rE", "-p", "no:cacheprovider", "-W", "ignore")
    return run_module("pytest", *options, environment=environment, directory=place)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("ERROR ")]
