"""A process that has collected the tests: the processes of pytest-xdist are its forks.

Each needs the modules of all tests. To import them takes ten seconds, and as long again in a fresh checkout, where
they are compiled; forks have them.

``python -m tests.collected ARGUMENTS… DESCRIPTOR`` collects what pytest collects with these arguments, and then is a
server as :mod:`tests.fork_server` is.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import forked
from tests.fork_server import serve

__all__ = ["CollectedTests"]


class CollectedTests:
    """The plugin: has the processes of pytest-xdist forked."""

    def __init__(self, config: pytest.Config, address: Path) -> None:
        self._address = address
        # Without its last collection of garbage, which takes seconds.
        arguments = [
            "--collect-only",
            *config.invocation_params.args,
            "--numprocesses=0",
            "-p",
            "no:unraisableexception",
        ]
        self._server = forked.ForkServerProcess(address, ["-m", "tests.collected", *arguments])
        config.add_cleanup(self._server.close)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[object]) -> None:
        self._server.wait_until_ready()
        for spec in specs:
            spec.python = forked.forking_python(self._address)  # type: ignore[attr-defined]


def main() -> None:
    *arguments, descriptor = sys.argv[1:]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main(arguments)  # its errors are told by the forks, which find them again
    serve(int(descriptor))


if __name__ == "__main__":
    main()
