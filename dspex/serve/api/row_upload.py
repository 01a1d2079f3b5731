"""The rows of an upload, parsed while it arrives: JSON lines or CSV. Memory holds one row and one part of the body."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from dspex.data.delimited.delimited_records import CsvParts, RecordTooLong, checked_header, ragged
from dspex.data.input_columns import InputColumns
from dspex.errors import FieldError, ValidationError
from dspex.serve.api.problem_details import HttpRefusal
from dspex.signatures import Signature
from dspex.submit.bulk import Row

__all__ = ["CSV_TYPES", "JSON_LINE_TYPES", "UPLOAD", "csv_rows", "json_line_rows", "lines_of"]

#: What the body of a request is called in errors.
UPLOAD = "the upload"

JSON_LINE_TYPES = frozenset(
    {"application/jsonl", "application/x-ndjson", "application/ndjson", "application/json-lines"}
)
CSV_TYPES = frozenset({"text/csv"})


async def lines_of(parts: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """The lines of a body, without line breaks. Raises HttpRefusal for a line of more than ``most`` bytes."""
    open_line, size = [b""], 0
    async for part in parts:
        head, line_break, tail = part.partition(b"\n")
        open_line.append(head)
        size += len(head)
        if size > most:
            raise _too_long(most)
        if not line_break:
            continue
        yield b"".join(open_line).removesuffix(b"\r")
        *lines, rest = tail.split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        open_line, size = [rest], len(rest)
    if size:
        yield b"".join(open_line).removesuffix(b"\r")


async def json_line_rows(lines: AsyncIterator[bytes]) -> AsyncIterator[Row]:
    """The row on each line that is not blank; a line that is no JSON gives its error, so that the row is rejected."""
    async for line in lines:
        if line and not line.isspace():
            yield _json_row(line)


def _json_row(line: bytes) -> Row:
    try:
        row: Row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValidationError.of("the line", [FieldError("line", f"a JSON object ({error})")])
    return row


async def csv_rows(parts: AsyncIterator[bytes], signature: Signature, most: int) -> AsyncIterator[Row]:
    """The row in each record of CSV after the first, whose cells name fields. Cells are read as ``dspex batch`` does.

    Raises ValidationError for a header that names other fields, DspexError for what is no CSV, HttpRefusal for a record
    of more than ``most`` characters.
    """
    records = _records(parts, most)
    _, first = await anext(records, (0, []))
    header = checked_header(first, ",", UPLOAD)
    known = [field.name for field in signature.input_fields]
    unknown = [name for name in header if name not in known]
    if unknown or not header:
        expected = f"a first line with the names of fields: {', '.join(known)}"
        raise ValidationError.of(UPLOAD, [FieldError("/", expected, ", ".join(unknown)[:80])])
    columns = InputColumns(signature.input_fields, "text", {})
    columns.check(header, UPLOAD, fix="Rename the column that has {}")
    async for line, record in records:
        is_whole = len(record) == len(header)
        yield (
            columns.inputs(dict(zip(header, record, strict=True))) if is_whole else ragged(UPLOAD, line, header, record)
        )


async def _records(parts: AsyncIterator[bytes], most: int) -> AsyncIterator[tuple[int, list[str]]]:
    """The records of CSV, each with the number of its last line."""
    text = CsvParts(UPLOAD, most)
    try:
        async for part in parts:
            for record in text.records(part):
                yield record
        for record in text.records(b"", is_last=True):
            yield record
    except RecordTooLong:
        raise _too_long(most) from None


def _too_long(most: int) -> HttpRefusal:
    detail = f"a row has more than {most} bytes (DSPEX_MAX_INPUT_BYTES)"
    return HttpRefusal(413, "row_too_long", detail, headers={"Connection": "close"})
