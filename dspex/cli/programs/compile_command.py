"""``dspex compile``: show the fields of a signature, its schemas, and what a provider enforces."""

from __future__ import annotations

from typing import Any, TextIO

import click
from rich.console import Console
from rich.json import JSON
from rich.text import Text

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.errors import SignatureSyntaxError
from dspex.signatures import Field, ProviderFit, Signature, signature
from dspex.signatures.fields import literal
from dspex.signatures.identity import has_default, json_form
from dspex.signatures.values.value_faults import constraint_text

__all__ = ["compile_command"]

PROVIDERS = ("json-schema", "openai", "anthropic", "gemini")


@click.command(name="compile")
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option(
    "--provider",
    type=click.Choice(PROVIDERS),
    default="json-schema",
    show_default=True,
    help="The provider whose JSON Schema is shown.",
)
@json_option
@click.pass_context
def compile_command(ctx: click.Context, file: TextIO, provider: str, as_json: bool) -> None:
    """Compile the signature in FILE (- for standard input) and show its fields, JSON Schemas, fingerprint, and what
    the provider enforces. Exit code 1 if it does not compile.

    Example: echo "question -> answer: str" | dspex compile -
    """
    try:
        compiled = signature(_text(file))
    except SignatureSyntaxError as error:
        if as_json:
            echo_json({"error": error.as_dict()})
        else:
            _print_error(error)
        ctx.exit(1)
    if as_json:
        echo_json(_as_data(compiled, provider))
    else:
        _print(console(), compiled, provider)


def _text(file: TextIO) -> str:
    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file.name} is not UTF-8 text: {error}") from None


def _print_error(error: SignatureSyntaxError) -> None:
    """Print the message with its caret, in colour if the terminal has colours."""
    screen = console(stderr=True)
    message = str(error).removesuffix(error.snippet).rstrip("\n")
    screen.print(Text.assemble((f"{error.code}: ", "bold red"), message), soft_wrap=True)
    if error.snippet:
        line, _, caret = error.snippet.rpartition("\n")
        screen.print(Text.assemble((line, "dim"), "\n", (caret, "bold red")), soft_wrap=True)


def _print(screen: Console, compiled: Signature, provider: str) -> None:
    screen.print(Text.assemble((compiled.name, "bold"), f"  {compiled.description}" if compiled.description else ""))
    rows = [
        [side, field.name, str(field.full_type), _limits(field), field.description]
        for side, fields in (("input", compiled.input_fields), ("output", compiled.output_fields))
        for field in fields
    ]
    print_table(screen, ["", "field", "type", "constraints", "description"], [list(map(Text, row)) for row in rows])
    for side in ("inputs", "outputs"):
        screen.print(Text(f"\n{side} as {provider}", style="bold"))
        screen.print(JSON.from_data(compiled.json_schema(side, provider), ensure_ascii=False))
    _print_fit(screen, compiled.provider_fit(provider))
    screen.print(Text.assemble("\nfingerprint ", (compiled.fingerprint, "cyan")), soft_wrap=True)


def _limits(field: Field) -> str:
    words = [constraint_text(name, value) for name, value in field.type.constraints]
    if has_default(field):
        words.append(f"default {literal(json_form(field.default))}")
    elif field.optional:
        words.append("optional")
    return "; ".join([*words, *(["secret"] if field.secret else [])])


def _print_fit(screen: Console, fit: ProviderFit) -> None:
    groups: list[tuple[str, Any, str]] = [
        (f"{fit.provider} enforces", fit.enforced, "green"),
        ("only DSPex checks", fit.checked_by_dspex, "yellow"),
        ("approximated", fit.approximated, "yellow"),
        (f"{fit.provider} rejects the schema", fit.problems, "red"),
    ]
    screen.print()
    for title, items, style in groups:
        if items:
            listed = ", ".join(item if isinstance(item, str) else f"{item[0]}: {item[1]}" for item in items)
            screen.print(Text.assemble((title, style), f"  {listed}"))


def _as_data(compiled: Signature, provider: str) -> dict[str, Any]:
    fit = compiled.provider_fit(provider)
    return {
        "name": compiled.name,
        "description": compiled.description,
        "fingerprint": compiled.fingerprint,
        "definition": compiled.definition,
        "input_fields": list(map(_field_data, compiled.input_fields)),
        "output_fields": list(map(_field_data, compiled.output_fields)),
        "provider": provider,
        "schemas": {
            "inputs": compiled.json_schema("inputs", provider),
            "outputs": compiled.json_schema("outputs", provider),
        },
        "fit": {
            "accepted": fit.accepted,
            "enforced": fit.enforced,
            "checked_by_dspex": fit.checked_by_dspex,
            "approximated": fit.approximated,
            "problems": fit.problems,
        },
    }


def _field_data(field: Field) -> dict[str, Any]:
    data = {
        "name": field.name,
        "type": str(field.type),
        "description": field.description,
        "constraints": field.constraints,
        "optional": field.optional,
        "required": field.required,
        "secret": field.secret,
    }
    return data | ({"default": json_form(field.default)} if has_default(field) else {})
