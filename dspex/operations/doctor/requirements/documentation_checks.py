"""Documentation: what can be set, typed, called or can go wrong says what it is."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import click

import dspex
from dspex import errors
from dspex.cli.main import COMMANDS, cli
from dspex.operations.doctor.check import Finding, check, met, not_met, skipped
from dspex.operations.doctor.deployment import Deployment
from dspex.settings import Settings

DOCS = Path(dspex.__file__).parent.parent / "docs"
MEND = "in a checkout write what is missing; elsewhere install dspex again"
#: What must be there for each kind of reader.
PAGES = ("how-to/write-a-program.md", "how-to/prepare-for-production.md", "reference/signatures.md",
         "reference/doctor.md", "explanation/architecture.md", "explanation/guarantees.md")  # fmt: skip


@check("Every setting is described", mend=MEND)
def settings(_deployment: Deployment) -> Finding:
    """Each setting has a description, from which the reference page is made."""
    bare = sorted(name for name, field in Settings.model_fields.items() if not field.description)
    return not_met(f"not described: {', '.join(bare)}") if bare else met(f"{len(Settings.model_fields)} settings")


@check("Every command has help", mend=MEND)
def commands(_deployment: Deployment) -> Finding:
    """Each command, and each of its options, says what it does."""
    context = click.Context(cli)
    bare = []
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        unexplained = [p.name or "" for p in command.params if isinstance(p, click.Option) and not _explained(p)]
        bare += [name] * (not command.help) + [f"{name} --{option}" for option in unexplained]
    return not_met(f"without help: {', '.join(bare)}") if bare else met(f"{len(COMMANDS)} commands")


@check("Every error has a code and a meaning", mend=MEND)
def error_codes(_deployment: Deployment) -> Finding:
    """Each class of error has a docstring and a stable code."""
    classes = [value for value in vars(errors).values() if _is_error(value)]
    bare = [cls.__name__ for cls in classes if not cls.__doc__ or not cls.code]
    return not_met(f"without: {', '.join(bare)}") if bare else met(f"{len(classes)} errors")


@check("Every public name is documented", mend=MEND)
def public_names(_deployment: Deployment) -> Finding:
    """Each class and function that can be imported from dspex, and each method of the clients, has a docstring."""
    bare = [name for name in dspex.__all__ if not inspect.getdoc(getattr(dspex, name))]
    for owner in (dspex.Client, dspex.AsyncClient):
        methods = inspect.getmembers(owner, inspect.isfunction)
        bare += [
            f"{owner.__name__}.{n}" for n, m in methods if not n.startswith("_") and n != "close" and not m.__doc__
        ]
    return not_met(f"without: {', '.join(bare)}") if bare else met(f"{len(dspex.__all__)} names")


@check("Every check says what to do", mend=MEND)
def checks(_deployment: Deployment) -> Finding:
    """Each check of the doctor has a meaning and a way to mend what it finds."""
    made = [check for group in import_module("dspex.operations.doctor.groups").GROUPS for check in group.checks]
    bare = [each.name for each in made if not each.meaning or not each.mend]
    return not_met(f"without: {', '.join(bare)}") if bare else met(f"{len(made)} checks")


@check("The pages are there", mend=MEND)
def pages(_deployment: Deployment) -> Finding:
    """In a checkout: a page for whoever writes programs, runs it in production, looks something up, or asks why."""
    if not DOCS.is_dir():
        return skipped("docs/ is not part of the wheel")
    missing = [page for page in PAGES if not (DOCS / page).is_file()]
    return not_met(f"missing: {', '.join(missing)}") if missing else met(f"{len(list(DOCS.rglob('*.md')))} pages")


def _explained(option: click.Option) -> bool:
    return bool(option.help) or option.hidden


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, errors.DspexError)
