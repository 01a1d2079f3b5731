"""``dspex import``."""

from __future__ import annotations

import click

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.programs.derived_program import Derived, derive
from dspex.client.client import Client
from dspex.program.program import Program
from dspex.settings import Settings
from dspex.signatures import Signature, signature

__all__ = ["import_command"]


@click.command("import")
@click.argument("reference", metavar="MODULE:NAME")
@click.option("--name", help="The name of the program; by default NAME.")
@click.option("--model", help="Its model; by default the one that DSPy is configured with when MODULE is imported.")
@click.option("--api-base", help="The address of the model's server.")
@click.option("--api-key-env", help="The environment variable, on workers, with the model's key.")
@click.option("--signature", "text", help="Its signature, if the derived one is not the right one: question -> answer.")
@click.option("--dry-run", is_flag=True, help="Print what is derived, and deploy nothing.")
@json_option
def import_command(
    reference: str,
    name: str | None,
    model: str | None,
    api_base: str | None,
    api_key_env: str | None,
    text: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Deploy an existing dspy.Module as it is, and print what was derived from it.

    MODULE:NAME is a class or a function that makes the module without arguments. Its inputs are the parameters of
    forward, its outputs the outputs of its last predictor.

    Example: dspex import acme.answers:Answers --model openai/gpt-4o-mini
    """
    derived = derive(reference)
    model = model or derived.model
    if model is None:
        raise click.UsageError("name its model: --model provider/model")
    used = derived.signature if text is None else signature(text)
    program = Program(
        name or derived.name, used, module=reference, model=model, api_base=api_base, api_key_env=api_key_env
    )
    if not dry_run:
        with Client() as client:
            client.deploy(program)
    if as_json:
        echo_json(_data(program, derived, deployed=not dry_run))
        return
    if derived.model not in (None, model):
        echo(f"{reference} configures DSPy with {derived.model}; workers run it on {model}", fg="yellow")
    _show(program, derived, used)
    echo(f"{program.name}  {program.version}  {model}{'  (not deployed)' if dry_run else ''}")


def _show(program: Program, derived: Derived, used: Signature) -> None:
    sides = (("input", used.input_fields), ("output", used.output_fields))
    rows = [
        (field.name, side, str(field.type), derived.sources.get(field.name, "--signature"))
        for side, fields in sides
        for field in fields
    ]
    print_table(console(), ("field", "side", "type", "derived from"), rows)
    echo(f"predictors: {', '.join(derived.predictors)}")
    package = program.module.partition(".")[0].partition(":")[0]
    if package not in {each.partition(".")[0] for each in Settings.load().program_packages}:
        echo(f"workers must allow its package: DSPEX_PROGRAM_PACKAGES={package}", fg="yellow")


def _data(program: Program, derived: Derived, *, deployed: bool) -> dict[str, object]:
    return {
        "name": program.name,
        "version": program.version,
        "model": program.model,
        "signature": program.signature.definition,
        "derived_from": dict(derived.sources),
        "predictors": list(derived.predictors),
        "deployed": deployed,
    }
