"""``dspex encryption``: the keys that encrypt secret fields."""

from __future__ import annotations

import click

from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.errors import ConfigurationError
from dspex.sealing.rotation import rotate
from dspex.sealing.values import Sealing
from dspex.settings import Settings
from dspex.settings.security_settings import new_key
from dspex.store.database import Database

__all__ = ["encryption"]


@click.group()
def encryption() -> None:
    """Create and rotate the keys that encrypt secret fields.

    \b
    Examples:
      dspex encryption key
      dspex encryption rotate
    """


@encryption.command()
def key() -> None:
    """Print a new random key for DSPEX_ENCRYPTION_KEY. It is not stored: without the key the data is lost.

    Example: export DSPEX_ENCRYPTION_KEY="$(dspex encryption key)"
    """
    echo(new_key())


@encryption.command("rotate")
@json_option
def rotate_command(as_json: bool) -> int:
    """Encrypt all data again with the first key of DSPEX_ENCRYPTION_KEY. Clients and workers continue meanwhile.

    The command can be interrupted and run again. Exit code 1 if some data cannot be decrypted with any of the keys.
    Older keys can be removed once the command reports that nothing older is left.

    Example: DSPEX_ENCRYPTION_KEY="NEW,OLD" dspex encryption rotate
    """
    settings = Settings.load()
    keyring = Sealing.of(settings).keyring
    if keyring is None:
        raise ConfigurationError("DSPEX_ENCRYPTION_KEY is not set: set it to the new key, a comma, and the old key")
    database = Database(settings.backends().database_url, pool_size=1, application_name="dspex rotate")
    try:
        with ProgressBars() as bars, bars.phase("sealing", None) as on_progress:
            done = rotate(database, keyring, on_progress=on_progress)
    finally:
        database.close()
    if as_json:
        echo_json({"key": keyring.primary, "rows": done.rows, "unreadable": done.unreadable, "why": done.why})
    else:
        for why in done.why:
            echo(why, err=True)
        left = f"{done.unreadable} cannot be decrypted with any key" if done.unreadable else "nothing older is left"
        echo(f"{done.rows} rows encrypted with key {keyring.primary}; {left}")
    return 1 if done.unreadable else 0
