"""`dspex batch`, killed again and again, in the formats that tests/integration/test_batch_tables.py leaves out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dspex.client.client import Client
from tests.chaos.guarantees import long
from tests.integration.test_batch_tables import RunBatch, check_kills, run_batch
from tests.processes import WorkerProcess

__all__ = ["run_batch"]  # a fixture


@pytest.mark.parametrize(
    ("source", "output"),
    [
        long("in.jsonl", "out.jsonl"),
        long("in.csv", "out.csv"),
        long("in.parquet", "out.parquet"),
        long("in.parquet", "out.csv"),
        long("in.csv", "out.jsonl"),
    ],
)
def test_each_row_is_written_once(
    client: Client,
    start_worker: Callable[..., WorkerProcess],
    run_batch: RunBatch,
    tmp_path: Path,
    source: str,
    output: str,
) -> None:
    start_worker()
    check_kills(client, run_batch, tmp_path, source, output)
