"""The rows of an upload, parsed while it arrives: JSON lines or CSV. Memory holds one row and one part of the body."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import AsyncIterator
from typing import Any

from dspex.errors import FieldError, ValidationError
from dspex.serve.api.problem_details import HttpRefusal
from dspex.signatures import Signature
from dspex.signatures.types.type_registry import is_text
from dspex.submit.bulk import Row
from dspex.submit.json_rows import inputs_of_json, read_row

__all__ = ["CSV_TYPES", "JSON_LINE_TYPES", "csv_rows", "json_line_rows", "lines_of"]

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


async def json_line_rows(lines: AsyncIterator[bytes], signature: Signature) -> AsyncIterator[Row]:
    """The row on each line that is not blank; a line that is no JSON gives its error, so that the row is rejected."""
    async for line in lines:
        if line and not line.isspace():
            yield read_row(signature, line)


async def csv_rows(lines: AsyncIterator[bytes], signature: Signature, most: int) -> AsyncIterator[Row]:
    """The row on each line after the first, whose cells name fields. An empty cell leaves an optional field out.

    The cell of a text field is its value; any other cell is JSON, or else text. Raises ValidationError for a header
    that names other fields, HttpRefusal for a record of more than ``most`` characters.
    """
    records = _records(lines, most)
    header: list[str] = await anext(records, [])
    known = {field.name: field for field in signature.input_fields}
    unknown = [name for name in header if name not in known]
    if unknown or not header:
        expected = f"a first line with the names of fields: {', '.join(known)}"
        raise ValidationError.of("the upload", [FieldError("/", expected, ", ".join(unknown)[:80])])
    texts = {name for name, field in known.items() if is_text(field.type)}
    optional = {name for name, field in known.items() if not field.required}
    async for record in records:
        if len(record) != len(header):
            found = f"{len(record)} cells"
            yield ValidationError.of("the line", [FieldError("line", f"{len(header)} cells", found)])
            continue
        cells = [(name, cell) for name, cell in zip(header, record, strict=True) if cell or name not in optional]
        row = {name: cell if name in texts else _json_or_text(cell) for name, cell in cells}
        yield inputs_of_json(signature, json.dumps(row), row)


async def _records(lines: AsyncIterator[bytes], most: int) -> AsyncIterator[list[str]]:
    """The records of CSV: a line, or several where quotes enclose line breaks."""
    csv.field_size_limit(max(csv.field_size_limit(), most))  # of the process: it is only ever raised
    open_lines: list[str] = []
    quotes = size = 0
    mark = codecs.BOM_UTF8
    async for line in lines:
        text = line.removeprefix(mark).decode("utf-8", "surrogateescape")
        mark = b""
        open_lines.append(text)
        quotes += text.count('"')
        size += len(text)
        if size > most:
            raise _too_long(most)
        if quotes % 2:  # within quotes: the record goes on
            continue
        if size:
            yield _cells(open_lines)
        open_lines, quotes, size = [], 0, 0
    if size:
        yield _cells(open_lines)


def _cells(lines: list[str]) -> list[str]:
    return next(csv.reader(["\n".join(lines)]), [])


def _json_or_text(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _too_long(most: int) -> HttpRefusal:
    detail = f"a row has more than {most} bytes (DSPEX_MAX_INPUT_BYTES)"
    return HttpRefusal(413, "row_too_long", detail, headers={"Connection": "close"})
