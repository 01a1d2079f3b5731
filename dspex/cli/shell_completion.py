"""``dspex completion``, and the completion of program names."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from dspex.cli.output.plain_text import echo
from dspex.errors import DspexError

__all__ = ["VARIABLE", "completion", "program_names"]

SHELLS = ("bash", "zsh", "fish")
#: The shell calls ``dspex`` with this variable set, and reads the output.
VARIABLE = "_DSPEX_COMPLETE"
#: How long the shell waits for the names of programs.
ANSWER_SECONDS = 2


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and the names of programs in a shell.

    \b
    Examples:
      dspex completion bash >> ~/.bashrc
      dspex completion zsh > ~/.zfunc/_dspex
      dspex completion fish > ~/.config/fish/completions/dspex.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    echo(found(click.Group("dspex"), {}, "dspex", VARIABLE).source())


def program_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The deployed programs whose name begins with ``incomplete``; none if the database does not answer in time."""
    from dspex.settings import Settings
    from dspex.store.program_names import programs_beginning

    try:
        url = Settings.load().backends().database_url
        return [CompletionItem(name) for name in programs_beginning(url, incomplete, seconds=ANSWER_SECONDS)]
    except DspexError:
        return []
