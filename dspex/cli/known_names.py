"""The check of names on a command line: a list of nothing must not hide a name that is mistyped."""

from __future__ import annotations

from dspex.client.client import Client
from dspex.client.lookup import require_program

__all__ = ["require_known"]


def require_known(client: Client, *, program: str | None = None, batch: str | None = None) -> None:
    """Raise ProgramNotFound for a program that is not deployed, ExecutionNotFound for a batch without stored rows."""
    if program is not None:
        require_program(client._database, program)
    if batch is not None:
        client.batch(batch)
