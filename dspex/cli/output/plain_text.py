"""Text for people. It may come from users and models, so it is printed without characters that control a terminal.

JSON output is not changed here: it is data for programs.
"""

from __future__ import annotations

import re
from typing import Any

import click

from dspex.signatures.text_order import REVERSING

__all__ = ["echo", "printable"]

#: C0 except tab and newline, DEL, C1, and the marks that reverse the order of the characters that follow.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f" + REVERSING + "]")


def printable(text: str) -> str:
    """The text without control characters; tabs and newlines stay."""
    return _CONTROLS.sub("", text)


def echo(text: str = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print text in a style of :func:`click.style`."""
    click.secho(printable(text), err=err, nl=nl, **style)
