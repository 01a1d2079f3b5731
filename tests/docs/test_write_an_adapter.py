"""The example of docs/how-to/write-an-adapter.md: installed like a package, and tested by the suite."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.processes import run_dspex, run_module


def write_example(directory: Path) -> None:
    """Write the files that the page shows; each begins with its path."""
    for block in blocks(ROOT / "docs" / "how-to" / "write-an-adapter.md"):
        if block.path:
            file = directory / block.path
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)


def install(directory: Path) -> None:
    """Write the entry points that an installer would create from the package's pyproject.toml."""
    project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    about = directory / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["dspex.adapters"]
    lines = ["[dspex.adapters]", *(f"{name} = {value}" for name, value in points.items())]
    (about / "entry_points.txt").write_text("\n".join(lines))


@pytest.mark.usefixtures("fork_server")
def test_the_example_holds_to_the_suite(tmp_path: Path) -> None:
    write_example(tmp_path)
    install(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    listed = run_dspex("adapters", environment=environment, directory=tmp_path)
    assert "house  available\n  Our own answering service" in listed.stdout, listed.stderr
    # In a fork dspex is imported before pytest would rewrite its assertions.
    warned = ("-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning")
    own = ("-q", *warned, "-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:schemathesis", "tests/test_house.py")
    done = run_module("pytest", *own, environment=environment, directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed, 1 skipped", done.stdout)  # it does not stream
