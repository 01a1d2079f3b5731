"""A stored program: JSON text that anyone with rights to the table may have written, and how it is read."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dspex.errors import ConfigurationError, DspexError, ProgramUnreadable, ValidationError
from dspex.program.adapters import adapters
from dspex.program.program import Program

__all__ = ["StoredProgram"]

#: The most characters of a reason.
REASON_MOST = 500


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A version of a program as it is stored. This process may be unable to read it."""

    name: str
    version: str
    content: str

    def read(self) -> Program:
        """The program. Raises ProgramUnreadable, with the reason and the fix; nothing else that the content causes.
        Its code is ``state_mismatch`` if only the state is at fault, which no other installation can read either."""
        try:
            return _program(self.name, self.content)
        except ConfigurationError:  # this installation is at fault, whatever the program
            raise
        except Exception as error:  # the boundary to stored data, which may be anything
            raise ProgramUnreadable(
                f"version {self.version!r} of program {self.name!r} cannot be read here: {_reason(error)}; upgrade "
                "DSPex here, install the package that brings what is missing, or deploy the program again",
                program=self.name,
                version=self.version,
                code="state_mismatch" if _is_of_state(error) else None,
            ) from error


def _program(name: str, content: str) -> Program:
    adapters()  # packages that bring adapters may register types, too
    data = json.loads(content)
    if not isinstance(data, dict):
        raise TypeError(f"a JSON object is expected, not a {type(data).__name__}")
    return Program.from_content(name, data)


def _is_of_state(error: Exception) -> bool:
    return isinstance(error, ValidationError) and {fault.path for fault in error.errors} == {"state"}


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "its content is nested too deeply"
    if isinstance(error, DspexError):
        return str(error)[:REASON_MOST]
    return f"its content is not a program ({type(error).__name__}: {str(error)[:REASON_MOST]})"
