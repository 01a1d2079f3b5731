"""Inputs that come as JSON text: a line of a file, a line of an upload, the body of a request."""

from __future__ import annotations

import json
from typing import Any

from dspex.errors import FieldError, ValidationError
from dspex.signatures import Signature
from dspex.submit.bulk import Row

__all__ = ["inputs_of_json", "read_row"]


def read_row(signature: Signature, line: bytes | str) -> Row:
    """The inputs on a line; for a line that is no JSON, the error, so that the row is rejected and others go on."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValidationError.of("the line", [FieldError("line", f"a JSON object ({error})")])
    row: Row = inputs_of_json(signature, line, values)
    return row


def inputs_of_json(signature: Signature, text: bytes | str, values: Any) -> Any:
    """The inputs in a JSON text as Python values, for types that are text in JSON: bytes, times, decimals.

    ``values`` are the parsed text; they are returned where the text does not fit: the validator has a clearer error.
    """
    try:
        return signature.decode("inputs", text)
    except (ValueError, TypeError, AttributeError):
        return values
