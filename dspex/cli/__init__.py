"""The ``dspex`` command. Each subcommand is a module that is imported when the subcommand is called."""

from __future__ import annotations

from dspex.cli.main import cli, main

__all__ = ["cli", "main"]
