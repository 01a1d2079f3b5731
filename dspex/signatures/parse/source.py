"""What every form of source is read into before it is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from dspex.signatures.fields import Field
from dspex.signatures.parse.lexer import Tokens, type_error
from dspex.signatures.types.type_registry import TypeFaultError

__all__ = ["Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """A signature as it was read: fields that have types but no validators yet."""

    name: str | None
    description: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    tokens: Tokens | None = None

    def refuse(self, fault: TypeFaultError, field: str | None = None) -> NoReturn:
        """Raise the fault as an error, at the field's place if the source has one."""
        if self.tokens is None:
            raise type_error(fault, f"field {field!r}" if field else "signature") from None
        self.tokens.fail_type(fault, self.tokens.marks.get(field or "", 0))
