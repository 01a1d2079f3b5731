"""``dspex migrate``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial

import click

from dspex.cli.output.console_tables import console
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.settings import Settings, without_password
from dspex.store import migrate as migrations
from dspex.store.database import Database
from dspex.store.roles import LOGIN_EXAMPLE, ROLES

__all__ = ["migrate"]


@click.command()
@click.option("--roles", "with_roles", is_flag=True, help="Also create the roles for producers, workers and readers.")
@json_option
def migrate(with_roles: bool, as_json: bool) -> None:
    """Bring the database's schema up to date. Safe to run again, and to run on several hosts at once.

    With --roles, also create roles with the least privileges that producers, workers and readers need. Later
    migrations keep their privileges up to date.

    Example: DSPEX_DATABASE_URL=postgresql://owner@… dspex migrate --roles
    """
    settings = Settings.load()
    backends = settings.backends()
    database = Database(backends.database_url)
    try:
        with console(stderr=True).status("migrating"):
            before, after = database.guard(partial(migrations.upgrade, keep_days=settings.retention_days))
            made = database.guard(migrations.make_roles) if with_roles else []
    finally:
        database.close()
    where = without_password(backends.database_url)
    if as_json:
        echo_json({"database": where, "before": before, "after": after, "roles_made": list(made)})
        return
    echo(
        f"{where}: " + (f"already at {after}" if before == after else f"migrated from {before or 'nothing'} to {after}")
    )
    if with_roles:
        _print_roles(made)


def _print_roles(made: Sequence[str]) -> None:
    echo(f"roles: {', '.join(f'{role} (new)' if role in made else role for role in ROLES)}")
    echo("The roles cannot log in. Create a login for each application; in psql, \\password reads its password:")
    echo(textwrap.indent(LOGIN_EXAMPLE, "  "))
