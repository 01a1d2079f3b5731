"""``dspex encryption``: keys that seal secret fields."""

from __future__ import annotations

import click

from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.progress_bar import Meter
from dspex.errors import ConfigurationError
from dspex.sealing.rotation import rotate
from dspex.sealing.values import Sealing
from dspex.settings import Settings
from dspex.settings.security_settings import new_key
from dspex.store.database import Database

__all__ = ["encryption"]


@click.group()
def encryption() -> None:
    """Make and rotate the keys that seal secret fields.

    \b
    Examples:
      dspex encryption key
      dspex encryption rotate
    """


@encryption.command()
def key() -> None:
    """Print a new random key, as DSPEX_ENCRYPTION_KEY takes it. It is kept nowhere: whoever loses it loses the data.

    Example: export DSPEX_ENCRYPTION_KEY="$(dspex encryption key)"
    """
    click.echo(new_key())


@encryption.command("rotate")
@json_option
def rotate_command(as_json: bool) -> int:
    """Seal again, with the first key of DSPEX_ENCRYPTION_KEY, what the others sealed; clients and workers go on.

    It can be killed and run again. Exit code 1 when something opens with none of the keys. The older keys may be taken
    away once it says that nothing is left.

    Example: DSPEX_ENCRYPTION_KEY="NEW,OLD" dspex encryption rotate
    """
    settings = Settings.load()
    keyring = Sealing.of(settings).keyring
    if keyring is None:
        raise ConfigurationError("DSPEX_ENCRYPTION_KEY is not set: give it the new key, a comma, and the old one")
    database = Database(settings.backends().database_url, pool_size=1, application_name="dspex rotate")
    try:
        with Meter() as meter, meter.phase("sealing", None) as show:
            done = rotate(database, keyring, on_progress=show)
    finally:
        database.close()
    if as_json:
        echo_json({"key": keyring.primary, "rows": done.rows, "unreadable": done.unreadable, "why": done.why})
    else:
        for why in done.why:
            click.echo(why, err=True)
        left = f"{done.unreadable} open with none of the keys" if done.unreadable else "nothing older is left"
        click.echo(f"{done.rows} rows sealed with key {keyring.primary}; {left}")
    return 1 if done.unreadable else 0
