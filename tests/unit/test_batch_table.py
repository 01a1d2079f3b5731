"""The executions of a batch as a table."""

from __future__ import annotations

import io
from typing import Any

from pyarrow import parquet

import dspex
from dspex.client.tables.batch_table import BatchTable, ParquetParts
from dspex.sealing.values import Sealing


def test_a_field_with_the_name_of_another_column_has_one_of_its_own() -> None:
    signature = dspex.signature(":string status, :integer index -> :string error_code, :string execution_id")
    table = BatchTable(Sealing(), signature)
    row: Any = {
        "batch_index": 0, "id": "id-0", "status": "completed", "error": None,
        "inputs": '{"status": "open", "index": 7}', "result": '{"error_code": "E1", "execution_id": "x"}',
    }  # fmt: skip
    table.add(row)
    parts = ParquetParts(table)
    file = io.BytesIO(parts.take() + parts.end())
    assert parquet.read_table(file).to_pylist() == [
        {
            "index": 0, "execution_id": "id-0", "status": "completed", "status_input": "open", "index_input": 7,
            "error_code_output": "E1", "execution_id_output": "x", "error_code": None, "error_message": None,
        }
    ]  # fmt: skip
