"""The fixtures of :mod:`dspex.testing`. pytest loads this module in every run, so it imports nothing heavy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dspex.client.client import Client
    from dspex.testing.model_double import ModelDouble
    from dspex.testing.session_stack import SessionStack
    from dspex.testing.worker_handle import WorkerHandle


@pytest.fixture(scope="session")
def dspex_environment() -> Mapping[str, str]:
    """Variables of the worker, beside the environment of the tests; override it in conftest.py.

    For programs with code of your own: ``{"DSPEX_PROGRAM_PACKAGES": "mypackage"}``.
    """
    return {}


@pytest.fixture(scope="session")
def dspex_stack(request: pytest.FixtureRequest, dspex_environment: Mapping[str, str]) -> Iterator[SessionStack]:
    """Postgres and Redis with DSPex's schema, for the whole session; each process of pytest-xdist has its own."""
    from dspex.testing.session_stack import SessionStack

    with_worker = any("dspex_worker" in getattr(item, "fixturenames", ()) for item in request.session.items)
    with (
        tempfile.TemporaryDirectory(prefix="dspex-testing-") as home,
        SessionStack(Path(home), dspex_environment, with_worker=with_worker) as stack,
    ):
        yield stack


@pytest.fixture
def dspex_client(dspex_stack: SessionStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of the stack. Meanwhile ``dspex.Client()`` and ``dspex.AsyncClient()`` find the stack, too."""
    from dspex.client.client import Client

    for name, value in dspex_stack.variables.items():
        monkeypatch.setenv(name, value)
    with Client() as client:
        yield client
        for status in ("queued", "running", "waiting"):
            for execution in client.list(status=status, limit=10_000):
                execution.cancel()


@pytest.fixture(scope="session")
def _dspex_session_worker(dspex_stack: SessionStack) -> WorkerHandle:
    dspex_stack.worker.ensure()
    return dspex_stack.worker


@pytest.fixture
def dspex_worker(_dspex_session_worker: WorkerHandle) -> Iterator[WorkerHandle]:
    """The worker of the stack, running. One that a test killed or paused runs again for the next test."""
    _dspex_session_worker.ensure()
    yield _dspex_session_worker
    _dspex_session_worker.resume()


@pytest.fixture
def dspex_model() -> Iterator[ModelDouble]:
    """A model server of the test's own. Without a script, its answers fit the signature of the program."""
    from dspex.testing.model_double import ModelDouble

    with ModelDouble() as model:
        yield model


@pytest.fixture
def dspex_no_paid_calls(dspex_stack: SessionStack) -> Iterator[None]:
    """Refuse connections to other hosts, from the test and from the worker, and fail the test that tried one."""
    with dspex_stack.loopback_only() as tried:
        yield
    if tried:
        pytest.fail(f"connections to other hosts were tried, and refused: {', '.join(tried)}")
