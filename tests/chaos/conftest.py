"""What all crash tests use: the adapter whose model calls are counted, known to producer and workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.program.adapters import look_again
from tests.homes import migrated_servers

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def steps_adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The adapter of tests/chaos/steps.py, installed as a third party's would be."""
    plugin = Path(__file__).parent / "plugin"
    monkeypatch.syspath_prepend(str(plugin))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(plugin)]))
    look_again()
    yield
    look_again()


@pytest.fixture
def own_servers(tmp_path: Path, fork_server: None) -> Iterator[EmbeddedServers]:
    """Servers of this test's own, to be restarted and emptied."""
    with migrated_servers(tmp_path / "home") as running:
        yield running
