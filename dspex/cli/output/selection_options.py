"""Command-line options of several commands: to select executions, and to submit them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

__all__ = [
    "MemberParameter",
    "by_name",
    "error_option",
    "internal_option",
    "metadata_option",
    "tenant_option",
    "webhook_option",
]

T = TypeVar("T")

internal_option: Callable[[Any], Any] = click.option(
    "--internal", is_flag=True, help="Also DSPex's own programs and executions, of dspex doctor and dspex bench."
)
error_option: Callable[[Any], Any] = click.option(
    "--error", metavar="CODE", help="Only failed executions with this error code, or with this cause."
)


class MemberParameter(click.ParamType):  # type: ignore[type-arg]  # click before 8.5 has no argument there
    """A member of metadata: ``KEY=VALUE``."""

    name = "member"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, separator, text = value.partition("=")
        if not separator or not name:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return name, text


def by_name(pairs: Iterable[tuple[str, T]], what: str) -> dict[str, T]:
    """The values by name. Raises UsageError for a name that is given more than once; ``what`` it is the name of."""
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise click.UsageError(f"{what} {name!r} is given more than once")
        found[name] = value
    return found


metadata_option: Callable[[Any], Any] = click.option(
    "--metadata", "members", type=MemberParameter(), multiple=True, metavar="KEY=VALUE",
    help="Only executions with this member in their metadata. Can be repeated.",
)  # fmt: skip
tenant_option: Callable[[Any], Any] = click.option("--tenant", metavar="NAME", help="Only executions of this tenant.")
webhook_option: Callable[[Any], Any] = click.option(
    "--webhook", metavar="URL", help="Post the outcome to this address once it is over, by a running `dspex serve`."
)
