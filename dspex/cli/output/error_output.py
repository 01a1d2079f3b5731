"""Errors of commands on standard error: text for people, or one line of JSON."""

from __future__ import annotations

import errno
import json
import re
import traceback
from pathlib import Path
from typing import Any

import click

from dspex.cli.output.colour import coloured
from dspex.cli.output.exit_codes import exit_code, is_file_error
from dspex.cli.output.plain_text import echo
from dspex.errors import DspexError

__all__ = ["print_error"]

#: The disk rejects writes.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_PACKAGE = str(Path(__file__).parents[2])
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]+@")


def print_error(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Print an error, with ``debug`` its traceback too, and return the exit code."""
    code = exit_code(error)
    trace = "".join(traceback.format_exception(error)) if debug else None
    if as_json:
        data = {"error": _as_data(error), "exit_code": code} | ({"traceback": trace} if trace else {})
        click.echo(json.dumps(data, ensure_ascii=False, default=str), err=True)
        return code
    if trace:
        echo(trace, err=True)
    if isinstance(error, click.ClickException):
        error.show()
        return code
    kind, message = _code_and_message(error)
    echo(f"{kind}: ", fg="red", bold=True, err=True, nl=False, color=coloured())
    echo(message, err=True)
    return code


def _code_and_message(error: Exception) -> tuple[str, str]:
    if isinstance(error, DspexError):
        return error.code, str(error)
    if isinstance(error, click.ClickException):
        return "wrong_usage", error.format_message()
    if isinstance(error, OSError) and (is_file_error(error) or error.errno in _DISK_ERRORS):
        return "file_error", f"{error.filename or 'the output'}: {error.strerror}"
    return "unexpected", _unexpected(error)


def _unexpected(error: Exception) -> str:
    """The error and where it was raised. Only the first line of its text: SQLAlchemy puts parameters on the others."""
    line = _PASSWORD.sub(r"\1***@", (str(error).strip() or "no message").splitlines()[0])
    frames = traceback.extract_tb(error.__traceback__)
    own = next((frame for frame in reversed(frames) if frame.filename.startswith(_PACKAGE)), None)
    where = f" ({own.filename}, line {own.lineno}, in {own.name})" if own else ""
    return (
        f"{type(error).__name__}: {line}{where}\n"
        "This is a bug in DSPex. Please report it with the output of `dspex --version` and the traceback, which the "
        "same command prints with --debug (review it first: it may quote your data)."
    )


def _as_data(error: Exception) -> dict[str, Any]:
    if isinstance(error, DspexError):
        return error.as_dict()
    code, message = _code_and_message(error)
    return {"type": type(error).__name__, "code": code, "message": message, "retryable": False, "details": {}}
