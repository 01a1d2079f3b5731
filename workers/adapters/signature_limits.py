"""Limits of a program's signature that its module does not know."""

from __future__ import annotations

from dspex.errors import ValidationError
from dspex.program.modules import is_custom
from dspex.program.program import Program

__all__ = ["unkept_limits"]


def unkept_limits(program: Program, error: ValidationError) -> str:
    """What to write instead, for the end of an error's text, where outputs of a user's own module break limits of the
    program's signature: DSPy checks none. Empty where something else is wrong."""
    broken = sorted({fault.path.partition("[")[0].partition(".")[0] for fault in error.errors if fault.constraint})
    if not broken or not is_custom(program.module):
        return ""
    return (
        f". If these values are meant to be possible, leave the limits of {', '.join(map(repr, broken))} out of the "
        "program's signature: the signatures within its module may keep them"
    )
