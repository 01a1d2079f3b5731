"""Exit codes of commands."""

from __future__ import annotations

import click

from dspex.errors import (
    BackendUnavailable,
    ConfigurationError,
    DspexError,
    ExecutionNotFound,
    ProgramNotFound,
    SchemaOutdated,
    ValidationError,
)

__all__ = ["DONE", "FAILED", "INTERRUPTED", "OUTPUT_CLOSED", "UNREACHABLE", "WRONG_USAGE", "exit_code", "is_file_error"]

DONE, FAILED, WRONG_USAGE, UNREACHABLE = 0, 1, 2, 3
#: The command was ended by a signal: 128 + SIGINT, 128 + SIGPIPE, as in shells.
INTERRUPTED, OUTPUT_CLOSED = 130, 141

#: The user's input is invalid, as opposed to work that failed.
_USAGE = (ConfigurationError, ValidationError, ProgramNotFound, ExecutionNotFound)
_FILES = ("batch_refused", "data_refused")


def exit_code(error: Exception) -> int:
    """The exit code for an error."""
    if isinstance(error, BackendUnavailable | SchemaOutdated):
        return UNREACHABLE
    if isinstance(error, DspexError):
        # The files given to `dspex batch` do not fit its arguments, or are no rows.
        return WRONG_USAGE if isinstance(error, _USAGE) or error.code in _FILES else FAILED
    return WRONG_USAGE if isinstance(error, click.ClickException) or is_file_error(error) else FAILED


def is_file_error(error: Exception) -> bool:
    """Whether the operating system refused a path that the user named."""
    return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError) and bool(
        error.filename
    )
