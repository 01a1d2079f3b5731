"""What a command that failed says, and its exit code: text for people, or JSON, on standard error."""

from __future__ import annotations

import errno
import json
import re
import traceback
from pathlib import Path
from typing import Any

import click

from dspex.cli.output.colour import coloured
from dspex.errors import (
    BackendUnavailable,
    ConfigurationError,
    DspexError,
    ExecutionNotFound,
    ProgramNotFound,
    SchemaOutdated,
    ValidationError,
)

__all__ = ["DONE", "FAILED", "INTERRUPTED", "OUTPUT_CLOSED", "UNREACHABLE", "WRONG_USAGE", "exit_code", "tell"]

#: Exit codes: those of the work, then those of a command that was ended, as shells count signals.
DONE, FAILED, WRONG_USAGE, UNREACHABLE = 0, 1, 2, 3
INTERRUPTED, OUTPUT_CLOSED = 130, 141

#: What the user typed is wrong, rather than what was asked for having failed.
_USAGE = (ConfigurationError, ValidationError, ProgramNotFound, ExecutionNotFound)
#: The disk refuses what is written.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_PACKAGE = str(Path(__file__).parents[2])
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]+@")


def exit_code(error: Exception) -> int:
    """The exit code of an error."""
    if isinstance(error, BackendUnavailable | SchemaOutdated):
        return UNREACHABLE
    if isinstance(error, DspexError):
        # A batch whose files do not fit the command was typed wrongly too.
        return WRONG_USAGE if isinstance(error, _USAGE) or error.code == "batch_refused" else FAILED
    wrong = isinstance(error, click.ClickException) or _is_about_a_file(error)
    return WRONG_USAGE if wrong else FAILED


def tell(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Print an error, with its traceback for ``debug``; ``as_json``: as one line of JSON. Returns the exit code."""
    code = exit_code(error)
    trace = "".join(traceback.format_exception(error)) if debug else None
    if as_json:
        data = {"error": _as_data(error), "exit_code": code} | ({"traceback": trace} if trace else {})
        click.echo(json.dumps(data, ensure_ascii=False, default=str), err=True)
        return code
    if trace:
        click.echo(trace, err=True)
    if isinstance(error, click.ClickException):
        error.show()
        return code
    kind, message = _told(error)
    click.secho(f"{kind}: ", fg="red", bold=True, err=True, nl=False, color=coloured())
    click.echo(message, err=True)
    return code


def _told(error: Exception) -> tuple[str, str]:
    """The code of an error, and its message."""
    if isinstance(error, DspexError):
        return error.code, str(error)
    if isinstance(error, click.ClickException):
        return "wrong_usage", error.format_message()
    if isinstance(error, OSError) and (_is_about_a_file(error) or error.errno in _DISK):
        return "file_error", f"{error.filename or 'the output'}: {error.strerror}"
    return "unexpected", _unexpected(error)


def _unexpected(error: Exception) -> str:
    """What it was and where it arose: of its text the first line, for SQLAlchemy's others carry parameters."""
    line = _PASSWORD.sub(r"\1***@", (str(error).strip() or "no message").splitlines()[0])
    frames = traceback.extract_tb(error.__traceback__)
    own = next((frame for frame in reversed(frames) if frame.filename.startswith(_PACKAGE)), None)
    where = f" ({own.filename}, line {own.lineno}, in {own.name})" if own else ""
    return (
        f"{type(error).__name__}: {line}{where}\n"
        "This is a fault of DSPex, not of what you typed. Please report it with what `dspex --version` says and the "
        "traceback, which the same command prints with --debug (look through it first: it may quote your data)."
    )


def _as_data(error: Exception) -> dict[str, Any]:
    if isinstance(error, DspexError):
        return error.as_dict()
    kind, message = _told(error)
    return {"type": type(error).__name__, "code": kind, "message": message, "retryable": False, "details": {}}


def _is_about_a_file(error: Exception) -> bool:
    """Whether it is the operating system's refusal of a path, which the user named in one way or another."""
    return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError) and bool(
        error.filename
    )
