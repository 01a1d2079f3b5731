"""A notebook that a real kernel executes, with frames of the real libraries: what its cells show."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from tests.processes import WorkerProcess, environment_of

SETUP = """
import dspex, json, pandas, polars, pyarrow
client = dspex.Client()
columns = {"id": [7, 3], "ticket": ["It is <broken>", "I paid twice"], "queue": ["expected", "expected"]}
"""
MAP = """
mapped = client.map("triage", {frame}, timeout=60)
assert type(mapped) is type({frame}), type(mapped)
print(json.dumps({rows}))
"""
#: A frame of each library, and how its rows are had.
FRAMES = {
    "pandas": ("pandas.DataFrame(columns)", "mapped.to_dict('list')"),
    "polars": ("polars.DataFrame(columns)", "mapped.to_dict(as_series=False)"),
    "pyarrow": ("pyarrow.table(columns)", "mapped.to_pydict()"),
    "datasets": ("__import__('datasets').Dataset.from_dict(columns)", "mapped.to_dict()"),
}
EXECUTION = """
execution = client.submit("triage", {"ticket": "x"})
execution.result(60)
execution.refresh()
execution
"""
SHOWN = ("client.program('triage').signature", EXECUTION, "client.submit_many('triage', [{'ticket': 'x'}])")
ASYNC = """
async with dspex.AsyncClient() as other:
    print((await other.map("triage", pandas.DataFrame(columns), timeout=60))["queue_output"].tolist())
client.close()
"""


def test_a_notebook_maps_frames_and_shows_cards(
    backends: Backends, client: Client, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    start_worker()
    signature = dspex.signature(':string ticket -> :enum("bug", "other") queue, :list(:string) tags')
    outputs = {"queue": "bug", "tags": ["a"]}
    client.deploy(dspex.Program("triage", signature, adapter="scripted", module_options={"outputs": outputs}))
    frames = {name: made for name, made in FRAMES.items() if importlib.util.find_spec(name)}
    cells = [SETUP, *(MAP.format(frame=frame, rows=rows) for frame, rows in frames.values()), *SHOWN, ASYNC]
    book = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    path = tmp_path / "book.ipynb"
    nbformat.write(book, path)
    execute = [str(Path(sys.executable).with_name("jupyter-execute")), "--inplace", str(path)]
    subprocess.run(execute, env=environment_of(backends, {}), check=True, timeout=120)
    book = nbformat.read(path, as_version=4)

    _, *mapped = (cell.outputs for cell in book.cells[: len(frames) + 1])
    for outputs_of_cell in mapped:
        assert ": 2 of 2" in html_of(outputs_of_cell), "the bar has counted the rows"
        assert json.loads(text_of(outputs_of_cell)) == {
            "id": [7, 3], "ticket": ["It is <broken>", "I paid twice"], "queue": ["expected", "expected"],
            "queue_output": ["bug", "bug"], "tags": [["a"], ["a"]],
        }  # fmt: skip
    signature_card, execution_card, batch_card = (html_of(cell.outputs) for cell in book.cells[-4:-1])
    assert "ticket" in signature_card
    assert "completed" in execution_card
    assert "of 1" in batch_card
    assert text_of(book.cells[-1].outputs).strip() == "['bug', 'bug']"


def html_of(outputs: list[Any]) -> str:
    return "".join(each.data.get("text/html", "") for each in outputs if each.output_type != "stream")


def text_of(outputs: list[Any]) -> str:
    return "".join(each.text for each in outputs if each.output_type == "stream" and each.name == "stdout")
