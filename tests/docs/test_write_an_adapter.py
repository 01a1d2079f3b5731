"""The example of docs/how-to/write-an-adapter.md: installed like a package, and tested by the suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.docs.pages import ROOT, blocks


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


def test_the_example_holds_to_the_suite(tmp_path: Path) -> None:
    write_example(tmp_path)
    install(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    listed = subprocess.run(
        [sys.executable, "-m", "dspex.cli", "adapters"], env=environment, capture_output=True, text=True, check=True
    )
    assert "house  available\n  Our own answering service" in listed.stdout
    own = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    done = subprocess.run(
        [*own, "tests/test_house.py"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed, 1 skipped", done.stdout)  # it does not stream
