"""The names of DSPex's own programs, which `dspex doctor` and `dspex bench` deploy and execute.

Their executions are internal: listings, reports, alerts and retries leave them out unless they are asked for. So no
other program can be deployed under such a name.
"""

from __future__ import annotations

__all__ = ["INTERNAL_PREFIXES", "is_internal"]

#: The pattern in dspex/store/lifecycle/selection.py has the same names.
INTERNAL_PREFIXES = ("dspex-doctor", "dspex-bench")


def is_internal(program: str) -> bool:
    """Whether a program of this name is DSPex's own."""
    return program.startswith(INTERNAL_PREFIXES)
