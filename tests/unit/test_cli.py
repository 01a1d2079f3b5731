"""The command line without a backend: help, examples, errors, tables, completion, and how little it loads."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import dspex.cli
from docs.generate.cli import commands
from dspex.cli.main import COMMANDS, cli
from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.error_output import print_error
from dspex.cli.output.json_output import echo_json
from dspex.cli.output.plain_text import echo, printable
from dspex.cli.output.time_options import TimeParameter
from dspex.errors import BackendUnavailable, ProgramNotFound, SignatureSyntaxError
from tests.processes import run_dspex

ROWS = [("01a20684-4602-7256-ba0f-22bc2071ca3c", "a_program_with_a_long_name", "failed", "3", "billing_refused")]
COLUMNS = ("id", "program", "status", "try", "error")


def examples(command: click.Command) -> list[str]:
    """The lines of its examples, from ``dspex`` to the end of the command."""
    _, found, text = (command.help or "").partition("Example")
    lines = [line for line in re.split("\n| · ", text) if "dspex " in line] if found else []
    return [re.split(r" [|>] | >> |\)", line[line.index("dspex ") :])[0] for line in lines]


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_the_examples_of_help_can_be_typed(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = (command for other, command in commands() if other == path)
    found = examples(command)
    assert found, f"dspex {' '.join(path)} --help shows no example"
    for example in found:
        _, *arguments = shlex.split(example)
        for argument in arguments:  # files that have to be there
            if re.fullmatch(r"[\w.-]+\.(py|json|jsonl|csv|parquet|sig|dspex|txt|sql|toml|dump|tar|gz)", argument):
                Path(argument).touch()
        parse(cli, arguments)


def parse(command: click.Command, arguments: list[str]) -> None:
    """Raises UsageError for what the command would refuse."""
    with command.make_context("dspex", arguments) as context:
        rest = [*context._protected_args, *context.args]
        if isinstance(command, click.Group) and (rest or not command.invoke_without_command):
            _, sub, rest = command.resolve_command(context, rest)
            assert sub is not None
            parse(sub, rest)


def test_help_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for path, command in commands():
        with command.make_context("dspex " + " ".join(path), [], resilient_parsing=True, max_content_width=80) as ctx:
            ctx.terminal_width = 80
            wide = [line for line in command.get_help(ctx).splitlines() if len(line) > 100]
            assert not wide, wide


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lst"], "Did you mean 'list'?"),
        (["retyr", "x"], "Did you mean 'retry'?"),
        (["telepathy"], "No such command 'telepathy'."),
        (["audit", "verfy"], "No such command 'verfy'"),
        (["list", "--statu", "failed"], "--status"),
    ],
)
def test_wrong_usage_says_what_is_near(arguments: list[str], said: str) -> None:
    with pytest.raises(click.UsageError) as raised:
        parse(cli, arguments)
    assert said in raised.value.format_message()


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
@pytest.mark.parametrize(
    ("path", "option"),
    [
        pytest.param(path, option, id=f"{' '.join(path)} {option.opts[0]}")
        for path, command in commands()
        for option in command.params
        if isinstance(option.type, click.types.FloatParamType) and option.name != "min_score"
    ],
)
def test_a_number_that_is_none_or_negative_is_refused(path: tuple[str, ...], option: click.Option, value: str) -> None:
    (command,) = (command for other, command in commands() if other == path)
    with command.make_context("dspex", [], resilient_parsing=True) as context, pytest.raises(click.BadParameter):
        option.type_cast_value(context, (value,) if option.multiple else value)


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (BackendUnavailable("Postgres is out of reach"), 3, "backend_unavailable"),
        (ProgramNotFound("no program"), 2, "program_not_found"),
        (SignatureSyntaxError("expected a name"), 1, "syntax_error"),
        (click.UsageError("no such thing"), 2, "wrong_usage"),
        (FileNotFoundError(2, "No such file or directory", "/nowhere/out.jsonl"), 2, "file_error"),
        (OSError(28, "No space left on device"), 1, "file_error"),
        (RuntimeError("postgresql://u:hunter22@h/d\n[parameters: secret]"), 1, "unexpected"),
    ],
)
def test_an_error_is_printed_as_text_and_as_json(
    error: Exception, code: int, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_error(error, as_json=True, debug=False) == code
    told = json.loads(capsys.readouterr().err)
    assert set(told) == {"error", "exit_code"}
    assert set(told["error"]) == {"type", "code", "message", "retryable", "details"}
    assert (told["error"]["code"], told["exit_code"]) == (kind, code)
    assert print_error(error, as_json=False, debug=False) == code
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert "hunter22" not in text
    assert "secret" not in text
    print_error(error, as_json=False, debug=True)
    assert type(error).__name__ in capsys.readouterr().err


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_a_table_fits_and_nothing_is_cut(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    print_table(console, COLUMNS, ROWS, optional=("try",))
    lines = out.getvalue().splitlines()
    ids = [line for line in lines if ROWS[0][0] in line]
    assert len(ids) == 1, "an id is on one line, however narrow"
    assert all(len(line.rstrip()) <= max(width, len(ROWS[0][0])) for line in lines)
    printed = "".join(out.getvalue().split())
    for cell in ("a_program_with_a_long_name", "failed"):
        assert cell in printed
    assert ("3" in lines[-1].split()) == (width >= 100), "the attempts are left out first"


def test_in_a_pipe_every_row_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    out = io.StringIO()
    print_table(Console(file=out, width=80), COLUMNS, ROWS, optional=("try",))
    header, row = out.getvalue().splitlines()
    assert header.split() == list(COLUMNS)
    assert row.split() == list(ROWS[0])


@pytest.mark.parametrize(
    ("typed", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T08:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("2026-01-31T08:00+02:00", datetime(2026, 1, 31, 6, tzinfo=UTC)),
    ],
)
def test_a_time_is_utc_unless_it_has_an_offset(typed: str, moment: datetime) -> None:
    assert TimeParameter().convert(typed, None, None) == moment


def test_a_time_can_be_a_duration_before_now() -> None:
    before = datetime.now(UTC) - timedelta(hours=2)
    assert timedelta(0) <= TimeParameter().convert("2h", None, None) - before < timedelta(minutes=5)
    for wrong in ("yesterday", "2y", "99999999999d"):
        with pytest.raises(click.BadParameter, match="is not a time"):
            TimeParameter().convert(wrong, None, None)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_dspex(*arguments, environment=os.environ | environment, directory=Path.cwd())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(shell: str, fork_server: None) -> None:
    done = run("completion", shell)
    assert done.returncode == 0
    assert f"_DSPEX_COMPLETE={shell}_complete" in done.stdout


def test_completion_never_says_an_error(tmp_path: Path, fork_server: None) -> None:
    nowhere = {"DSPEX_HOME": str(tmp_path), "COMP_CWORD": "2", "_DSPEX_COMPLETE": "bash_complete"}
    done = run(COMP_WORDS="dspex run qa", **nowhere)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
    done = run(COMP_WORDS="dspex run qa", DSPEX_LEASE_SECONDS="never", **nowhere)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
    done = run(COMP_WORDS="dspex list --sta", **nowhere)
    assert (done.stdout.strip(), done.stderr) == ("plain,--status", "")


def test_help_loads_nothing_that_takes_time() -> None:
    code = "import sys; from dspex.cli.main import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded & {"pydantic", "sqlalchemy", "psycopg", "redis", "kombu", "rich", "alembic", "celery"} == set()


HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\x85e\u202ef\u2066g\rh\x00i\x7fj\tk\nl"
HARMLESS = "a]0;titleb[2Jc31mdefghij\tk\nl"


def test_text_is_printed_without_characters_that_control_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(HOSTILE) == HARMLESS
    assert printable("déjà 漢字 🐈‍⬛ \u200fעברית") == "déjà 漢字 🐈‍⬛ \u200fעברית"
    echo(HOSTILE, bold=True)
    print_error(ProgramNotFound(HOSTILE), as_json=False, debug=False)
    out, err = capsys.readouterr()
    assert out == HARMLESS + "\n"
    assert HARMLESS in err


def test_tables_and_panels_are_printed_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    flat = HOSTILE.replace("\n", " ").replace("\t", " ")
    print_table(console(), ("id", "summary"), [(flat, flat), ("b", "c")])
    console().print(Panel(Text.assemble((flat, "bold"))))
    console().print(flat)
    out = capsys.readouterr().out
    assert out.count(printable(flat)) == 4
    assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", out) is None


def test_json_keeps_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    echo_json({"answer": HOSTILE})
    assert json.loads(capsys.readouterr().out) == {"answer": HOSTILE}


@pytest.mark.parametrize("path", sorted(Path(dspex.cli.__path__[0]).rglob("*.py")), ids=lambda path: path.stem)
def test_commands_print_text_only_through_the_functions_that_clean_it(path: Path) -> None:
    if path.name not in ("plain_text.py", "console_tables.py"):
        assert not re.findall(r"click\.(?:secho|style)\(|click\.echo\((?!json)|\bConsole\(", path.read_text())
