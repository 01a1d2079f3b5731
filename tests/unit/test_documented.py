"""Everything a user can set, type, call or catch is described."""

from __future__ import annotations

import inspect

import click
import pytest

import dspex
from dspex import errors
from dspex.cli.main import COMMANDS, cli
from dspex.operations.doctor import GROUPS
from dspex.settings import Settings


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_has_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    assert [option.name for option in options if not option.help] == []


def test_every_error_has_a_code_and_a_docstring() -> None:
    classes = [v for v in vars(errors).values() if inspect.isclass(v) and issubclass(v, errors.DspexError)]
    assert [cls.__name__ for cls in classes if not cls.__doc__ or not cls.code] == []


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name in dspex.__all__ if not inspect.getdoc(getattr(dspex, name))] == []


@pytest.mark.parametrize("owner", [dspex.Client, dspex.AsyncClient])
def test_every_method_of_a_client_has_a_docstring(owner: type) -> None:
    methods = inspect.getmembers(owner, inspect.isfunction)
    assert [name for name, method in methods if not name.startswith("_") and not inspect.getdoc(method)] == []


def test_every_check_of_the_doctor_has_a_meaning_and_a_fix() -> None:
    checks = [check for group in GROUPS for check in group.checks]
    assert [check.name for check in checks if not check.meaning or not check.fix] == []
