"""The result of parsing a signature, from any source form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from dspex.signatures.fields import Field
from dspex.signatures.parse.lexer import Tokens, type_error
from dspex.signatures.types.type_registry import TypeFaultError

__all__ = ["Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed signature: its fields have types but no validators yet."""

    name: str | None
    description: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    tokens: Tokens | None = None

    def refuse(self, fault: TypeFaultError, field: str | None = None) -> NoReturn:
        """Raise the fault as an error, with the position of the field if the source is text."""
        if self.tokens is None:
            raise type_error(fault, f"field {field!r}" if field else "signature") from None
        self.tokens.fail_type(fault, self.tokens.marks.get(field or "", 0))
