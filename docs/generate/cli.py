"""docs/reference/cli.md: every command, from its own help."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from dspex.cli.main import cli

__all__ = ["commands", "page"]

_HEAD = """\
# Command line

<!-- Made by `python -m docs.generate` from the commands' help: do not edit. -->

Settings come from `DSPEX_*` variables or `dspex.toml` ([settings](settings.md)). What a command found is printed to
standard output, all else (progress, warnings, errors) to standard error.

| exit code | |
|---|---|
| 0 | done |
| 1 | the work failed: an execution, a check, a load's floor |
| 2 | wrong usage: of the command, of a setting, of an id or a name |
| 3 | Postgres or Redis is unreachable, or the schema is not this version's |
| 130, 141 | interrupted; whoever read the output has closed it |

An error is one message, `code: what happened`; `--debug`, before or after the command, adds the traceback. Tables fit
the terminal: columns that matter less are left out, nothing is cut. In a pipe each row is one whole line. Colour is for
terminals; `NO_COLOR` turns it off, `FORCE_COLOR` on. Long work shows a bar on a terminal, and elsewhere a line every
five seconds. `dspex completion bash|zsh|fish` prints what completes commands, options and names of programs.

## `--json`

The shapes are in [cli.schema.json](cli.schema.json), by command (`$defs`); tests check them against what the commands
print. Moments are ISO 8601 with a time zone. An error is the last line of standard error, its shape is `$defs/error`:

```json
{"error": {"type": "ExecutionNotFound", "code": "execution_not_found", "message": "'x' is not an execution id",
           "retryable": false, "details": {"execution_id": "x"}}, "exit_code": 2}
```

Decide on `error.code` and the exit code, never on the message.
"""


def page() -> str:
    """The text of the page."""
    return "\n".join([_HEAD, *(_section(path, command) for path, command in commands(("dspex",)))])


def commands(path: tuple[str, ...] = (), group: click.Group = cli) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that it is called by, after those of ``path``."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands((*path, name), command)


def _section(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(path))
    usage = " ".join([*path, *command.collect_usage_pieces(context)])
    text, _, examples = inspect.cleandoc(command.help or "").replace("\b\n", "").partition("Example")
    shown = [line.strip() for line in re.split("\n| · ", examples.lstrip("s").removeprefix(":")) if line.strip()]
    parts = [f"## {' '.join(path)}", f"```text\n{usage}\n```", text.strip()]
    if shown:
        parts.append("```bash\n" + "\n".join(shown) + "\n```")
    options = [row for parameter in command.get_params(context) if (row := parameter.get_help_record(context))]
    rows = [f"| `{_cell(name)}` | {_cell(help)} |" for name, help in options if "--help" not in name]
    if rows:
        parts.append("\n".join(["| option | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
