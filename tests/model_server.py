"""The model server of :mod:`dspex.testing` for tests that script it step by step, and as a process of its own.

``python -m tests.model_server --port 0`` prints ``{"url": ...}`` and serves until it is stopped; the fixture
:func:`model_server` runs it in a thread.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator

import pytest

from dspex.testing.scripted_model import ModelServer, application
from dspex.testing.scripted_model import ModelStep as Step

__all__ = ["ModelServer", "Step", "application", "model_server"]


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """A model server of the test's own."""
    with ModelServer() as server:
        yield server


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a scriptable OpenAI-compatible model on this machine.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    with ModelServer(parser.parse_args().port) as server:
        print(json.dumps({"url": server.url}), flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
